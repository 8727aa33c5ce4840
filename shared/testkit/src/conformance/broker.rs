//! What [`Publisher`] and [`Consumers`] promise, on the queues of [`topology`].

use std::time::Duration;

use bytes::Bytes;
use countersign_delivery::Topology;
use countersign_delivery::ports::broker::{
    Consumer, Consumers, Delivered, Handle, HeaderValue, Properties, Publication, Published, Publisher, Settlement,
};
use countersign_delivery::topology::Subscription;

use super::Waiting;
use crate::build::{a_publication, a_topology};

/// How long a delivery may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(20);
/// The longest retry tier of the first subscription.
const SLOW_TIER_MS: u64 = 4_000;
/// How long nothing may come before a test believes that nothing will.
const QUIET: Duration = Duration::from_millis(300);

/// Makes one test of each promise. `$setup` is an async function from the test's name to
/// `(impl Publisher, impl Consumers, impl Waiting, Topology, _)`; the topology is [`topology`]'s, declared, with empty queues,
/// and the last part is kept until the test has ended.
#[macro_export]
macro_rules! broker_suite {
    ($setup:path) => {
        $crate::broker_suite!($setup =>
            what_is_confirmed_arrives_as_it_was_sent,
            outcomes_come_in_order_and_returns_hit_the_right_ones,
            an_exchange_routes_to_every_matching_subscription,
            what_is_acked_is_gone,
            what_is_requeued_comes_again_as_redelivered,
            what_is_rejected_lands_in_the_dead_letter_queue,
            a_dropped_consumer_gives_back_what_it_held,
            no_more_than_the_prefetch_is_handed_out,
            settling_works_while_next_waits,
            handles_of_another_generation_are_passed_over,
            tiers_hold_back_then_pass_on,
            an_expiration_shortens_a_tier_at_its_head_only_and_ends_with_it,
            an_impossible_consumer_is_refused,
            ready_is_what_waits_and_not_what_is_held,
        );
    };
    ($setup:path => $($promise:ident),* $(,)?) => {
        $(#[tokio::test]
        async fn $promise() {
            let (publisher, consumers, time, topology, _kept) = $setup(stringify!($promise)).await;
            let ground = $crate::conformance::broker::Ground::new(&publisher, &consumers, &time, &topology);
            $crate::conformance::broker::$promise(&ground).await;
        })*
    };
}

/// [`a_topology`] under names of its own, so that tests can share a broker. `name` is part of queue names.
#[must_use]
pub fn topology(name: &str) -> Topology {
    let own = |queue: &str| format!("{name}-{queue}");
    let mut topology = Topology { prefix: own("countersign"), ..a_topology() };
    topology.checks.check_delay_ms = 300;
    topology.checks.recheck_delays_ms = vec![600];
    topology.subscriptions[0].retry_delays_ms.push(SLOW_TIER_MS);
    for exchange in &mut topology.exchanges {
        exchange.name = own(&exchange.name);
    }
    for subscription in &mut topology.subscriptions {
        subscription.name = crate::build::subscription(&own(subscription.name.as_str()));
        for binding in &mut subscription.bindings {
            binding.exchange = own(&binding.exchange);
        }
    }
    topology
}

/// What a promise is tested on.
#[derive(Debug)]
pub struct Ground<'a, P, C, W> {
    publisher: &'a P,
    consumers: &'a C,
    time: &'a W,
    topology: &'a Topology,
}

impl<'a, P: Publisher, C: Consumers, W: Waiting> Ground<'a, P, C, W> {
    /// An adapter with the queues of `topology`.
    pub const fn new(publisher: &'a P, consumers: &'a C, time: &'a W, topology: &'a Topology) -> Self {
        Self { publisher, consumers, time, topology }
    }

    fn inventory(&self) -> &Subscription {
        &self.topology.subscriptions[0]
    }

    fn audit(&self) -> &Subscription {
        &self.topology.subscriptions[1]
    }

    async fn send(&self, ids: &[&str], queue: &str) {
        let batch: Vec<_> = ids.iter().map(|id| a_publication(id, queue)).collect();
        assert_eq!(self.publisher.publish(batch).await, vec![Published::Confirmed; ids.len()]);
    }

    async fn consume(&self, queue: &str, prefetch: u16) -> Box<dyn Consumer> {
        self.consumers.consume(queue, prefetch).await.expect("these arguments can work")
    }
}

async fn next(consumer: &mut Box<dyn Consumer>) -> Delivered {
    let mut batch = tokio::time::timeout(PATIENCE, consumer.next(1)).await.expect("a delivery was due");
    assert_eq!(batch.len(), 1);
    batch.remove(0)
}

async fn nothing_more(consumer: &mut Box<dyn Consumer>) {
    let more = tokio::time::timeout(QUIET, consumer.next(1)).await;
    assert!(more.is_err(), "nothing was due: {more:?}");
}

fn id(delivered: &Delivered) -> &str {
    delivered.properties.message_id.as_deref().unwrap_or("none")
}

/// As the name says: every property, every kind of header, the body.
pub async fn what_is_confirmed_arrives_as_it_was_sent(ground: &Ground<'_, impl Publisher, impl Consumers, impl Waiting>) {
    let headers = [
        ("text", HeaderValue::Text("ä \"b\"".into())),
        ("int", HeaderValue::Int(-7_000_000_000)),
        ("bool", HeaderValue::Bool(true)),
        ("double", HeaderValue::Double(1.5)),
        ("bytes", HeaderValue::Bytes(vec![0, 255, 128])),
    ];
    let sent = Publication {
        exchange: String::new(),
        routing_key: ground.inventory().name.to_string(),
        properties: Properties {
            message_id: Some("one".into()),
            app_id: Some("shop".into()),
            kind: Some("order.created".into()),
            content_type: Some("application/octet-stream".into()),
            timestamp: Some(1_800_000_000),
            expiration_ms: Some(600_000),
            headers: headers.map(|(name, value)| (name.to_owned(), value)).into(),
        },
        body: Bytes::from_static(&[0, 1, 255]),
    };
    ground.publisher.up().await;
    assert!(ground.publisher.is_up());
    assert_eq!(ground.publisher.publish(vec![sent.clone()]).await, [Published::Confirmed]);
    assert_eq!(ground.publisher.publish(vec![]).await, []);
    let mut consumer = ground.consume(ground.inventory().name.as_str(), 10).await;
    let got = next(&mut consumer).await;
    assert_eq!((got.properties, got.body), (sent.properties, sent.body));
    assert_eq!((got.exchange, got.routing_key, got.redelivered), (sent.exchange, sent.routing_key, false));
}

/// As the name says: a return is no confirm, and no neighbour's.
pub async fn outcomes_come_in_order_and_returns_hit_the_right_ones(
    ground: &Ground<'_, impl Publisher, impl Consumers, impl Waiting>,
) {
    let queue = ground.inventory().name.to_string();
    let target = |n: usize| if n.is_multiple_of(3) { "nowhere" } else { queue.as_str() };
    let batch: Vec<_> = (0..200).map(|n| a_publication(&format!("m{n}"), target(n))).collect();
    let outcomes = ground.publisher.publish(batch).await;
    assert_eq!(outcomes.len(), 200);
    for (n, outcome) in outcomes.iter().enumerate() {
        let returned = matches!(outcome, Published::Returned { .. });
        let expected = if n.is_multiple_of(3) { returned } else { *outcome == Published::Confirmed };
        assert!(expected, "publication {n}: {outcome:?}");
    }
}

/// As the name says, and returns what no subscription wants.
pub async fn an_exchange_routes_to_every_matching_subscription(
    ground: &Ground<'_, impl Publisher, impl Consumers, impl Waiting>,
) {
    let exchange = ground.topology.exchanges[0].name.clone();
    let publication = |id: &str, routing_key: &str| Publication {
        exchange: exchange.clone(),
        routing_key: routing_key.into(),
        ..a_publication(id, "")
    };
    let outcomes =
        ground.publisher.publish(vec![publication("order", "order.created"), publication("stock", "stock.moved")]).await;
    assert_eq!(outcomes, [Published::Confirmed, Published::Confirmed]);
    let mut inventory = ground.consume(ground.inventory().name.as_str(), 10).await;
    let mut audit = ground.consume(ground.audit().name.as_str(), 10).await;
    let got = next(&mut inventory).await;
    assert_eq!((id(&got), got.exchange.as_str(), got.routing_key.as_str()), ("order", exchange.as_str(), "order.created"));
    assert_eq!(id(&next(&mut audit).await), "order");
    assert_eq!(id(&next(&mut audit).await), "stock");
    nothing_more(&mut inventory).await;
}

/// As the name says, for the next consumer too.
pub async fn what_is_acked_is_gone(ground: &Ground<'_, impl Publisher, impl Consumers, impl Waiting>) {
    let queue = ground.inventory().name.as_str();
    ground.send(&["a", "b"], queue).await;
    let mut consumer = ground.consume(queue, 10).await;
    let (a, b) = (next(&mut consumer).await, next(&mut consumer).await);
    consumer.settler().settle(&[a.handle, b.handle], Settlement::Ack).await;
    // A settlement is on its way when `settle` returns; what follows on the same connection comes after it.
    ground.send(&["c"], queue).await;
    assert_eq!(id(&next(&mut consumer).await), "c");
    drop(consumer);
    let mut consumer = ground.consume(queue, 10).await;
    assert_eq!(id(&next(&mut consumer).await), "c");
    nothing_more(&mut consumer).await;
}

/// As the name says.
pub async fn what_is_requeued_comes_again_as_redelivered(ground: &Ground<'_, impl Publisher, impl Consumers, impl Waiting>) {
    let queue = ground.inventory().name.as_str();
    ground.send(&["a"], queue).await;
    let mut consumer = ground.consume(queue, 10).await;
    let first = next(&mut consumer).await;
    consumer.settler().settle(&[first.handle], Settlement::Requeue).await;
    let again = next(&mut consumer).await;
    assert_eq!((id(&again), again.redelivered), ("a", true));
    assert_ne!(again.handle, first.handle);
}

/// As the name says, with its properties.
pub async fn what_is_rejected_lands_in_the_dead_letter_queue(ground: &Ground<'_, impl Publisher, impl Consumers, impl Waiting>) {
    let queue = ground.inventory().name.as_str();
    ground.send(&["a"], queue).await;
    let mut consumer = ground.consume(queue, 10).await;
    let first = next(&mut consumer).await;
    consumer.settler().settle(&[first.handle], Settlement::DeadLetter).await;
    let mut dead = ground.consume(&ground.inventory().dead_letter_queue(), 10).await;
    assert_eq!(id(&next(&mut dead).await), "a");
    nothing_more(&mut consumer).await;
}

/// As the name says.
pub async fn a_dropped_consumer_gives_back_what_it_held(ground: &Ground<'_, impl Publisher, impl Consumers, impl Waiting>) {
    let queue = ground.inventory().name.as_str();
    ground.send(&["a", "b"], queue).await;
    let mut first = ground.consume(queue, 10).await;
    next(&mut first).await;
    drop(first);
    let mut second = ground.consume(queue, 10).await;
    let mut got = [next(&mut second).await, next(&mut second).await].map(|delivered| id(&delivered).to_owned());
    got.sort();
    assert_eq!(got, ["a", "b"]);
}

/// As the name says, until something is settled.
pub async fn no_more_than_the_prefetch_is_handed_out(ground: &Ground<'_, impl Publisher, impl Consumers, impl Waiting>) {
    let queue = ground.inventory().name.as_str();
    ground.send(&["a", "b", "c"], queue).await;
    let mut consumer = ground.consume(queue, 2).await;
    let (a, b) = (next(&mut consumer).await, next(&mut consumer).await);
    assert_eq!((id(&a), id(&b)), ("a", "b"));
    nothing_more(&mut consumer).await;
    consumer.settler().settle(&[a.handle], Settlement::Ack).await;
    assert_eq!(id(&next(&mut consumer).await), "c");
}

/// As the name says.
pub async fn settling_works_while_next_waits(ground: &Ground<'_, impl Publisher, impl Consumers, impl Waiting>) {
    let queue = ground.inventory().name.as_str();
    ground.send(&["a", "b"], queue).await;
    let mut consumer = ground.consume(queue, 1).await;
    let settler = consumer.settler();
    let a = next(&mut consumer).await;
    let (b, ()) = tokio::join!(next(&mut consumer), settler.settle(std::slice::from_ref(&a.handle), Settlement::Ack));
    assert_eq!(id(&b), "b");
}

/// As the name says: the broker has put those messages back already.
pub async fn handles_of_another_generation_are_passed_over(ground: &Ground<'_, impl Publisher, impl Consumers, impl Waiting>) {
    let queue = ground.inventory().name.as_str();
    ground.send(&["a"], queue).await;
    let mut consumer = ground.consume(queue, 10).await;
    let Handle { generation, tag } = next(&mut consumer).await.handle;
    let stale = Handle { generation: generation.wrapping_sub(1), tag };
    consumer.settler().settle(&[stale], Settlement::Ack).await;
    drop(consumer);
    let mut consumer = ground.consume(queue, 10).await;
    assert_eq!(id(&next(&mut consumer).await), "a");
}

/// As the name says: check tiers into the queue of due checks, retry tiers into their own work queue.
pub async fn tiers_hold_back_then_pass_on(ground: &Ground<'_, impl Publisher, impl Consumers, impl Waiting>) {
    let (topology, inventory) = (ground.topology, ground.inventory());
    let check_delay = topology.checks.check_delay_ms;
    ground.send(&["check"], &topology.check_tier_queue(check_delay)).await;
    ground.send(&["slow"], &inventory.retry_queue(1_000)).await;
    ground.send(&["fast"], &inventory.retry_queue(100)).await;
    let mut checks = ground.consume(&topology.checks_queue(), 10).await;
    let mut work = ground.consume(inventory.name.as_str(), 10).await;
    ground.time.pass(check_delay).await;
    assert_eq!(id(&next(&mut checks).await), "check");
    let fast = next(&mut work).await;
    assert_eq!(id(&fast), "fast");
    assert_eq!(fast.body, a_publication("fast", "").body);
    ground.time.pass(1_000).await;
    assert_eq!(id(&next(&mut work).await), "slow");
}

/// As the name says: what is behind a longer wait waits with it, and the message comes out without its expiration.
pub async fn an_expiration_shortens_a_tier_at_its_head_only_and_ends_with_it(
    ground: &Ground<'_, impl Publisher, impl Consumers, impl Waiting>,
) {
    let inventory = ground.inventory();
    let expiring = |id: &str, tier_ms: u64, expiration_ms: u64| {
        let mut publication = a_publication(id, &inventory.retry_queue(tier_ms));
        publication.properties.expiration_ms = Some(expiration_ms);
        publication
    };
    // The tier of a second says when the early one came; in the slow tier only its expiration can make it come before.
    ground.send(&["second"], &inventory.retry_queue(1_000)).await;
    let batch = vec![
        expiring("early", SLOW_TIER_MS, 200),
        expiring("behind", 1_000, 100),
        // Longer than the tier: the tier's own counts.
        expiring("late", SLOW_TIER_MS, 3_600_000),
    ];
    assert_eq!(ground.publisher.publish(batch).await, vec![Published::Confirmed; 3]);
    let mut work = ground.consume(inventory.name.as_str(), 10).await;
    for (wait_ms, wanted) in [(200, "early"), (800, "second"), (0, "behind"), (SLOW_TIER_MS - 1_000, "late")] {
        ground.time.pass(wait_ms).await;
        let got = next(&mut work).await;
        assert_eq!((id(&got), got.properties.expiration_ms), (wanted, None));
    }
    nothing_more(&mut work).await;
}

/// As the name says; a queue that is not there yet is no such case.
pub async fn an_impossible_consumer_is_refused(ground: &Ground<'_, impl Publisher, impl Consumers, impl Waiting>) {
    for (queue, prefetch) in [("", 10), (ground.inventory().name.as_str(), 0)] {
        let refused = ground.consumers.consume(queue, prefetch).await.err();
        assert!(refused.as_ref().is_some_and(|why| !why.is_transient()), "{queue:?} with {prefetch}: {refused:?}");
    }
    assert!(ground.consumers.consume("not-there-yet", 1).await.is_ok());
}

/// As the name says; a queue that is not there is refused.
pub async fn ready_is_what_waits_and_not_what_is_held(ground: &Ground<'_, impl Publisher, impl Consumers, impl Waiting>) {
    let queue = ground.inventory().name.as_str();
    let ready = async || ground.consumers.ready(queue).await.expect("the broker answers");
    assert_eq!(ready().await, 0);
    ground.send(&["a", "b", "c"], queue).await;
    let mut consumer = ground.consume(queue, 1).await;
    assert_eq!(id(&next(&mut consumer).await), "a");
    reaches(&ready, 2).await;
    drop(consumer);
    reaches(&ready, 3).await;
    let refused = ground.consumers.ready("not-there").await.err();
    assert!(refused.as_ref().is_some_and(|why| !why.is_transient()), "{refused:?}");
}

async fn reaches(ready: &impl AsyncFn() -> u32, expected: u32) {
    let reached = async {
        while ready().await != expected {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("never {expected} ready"));
}
