//! The topology on a real broker.

use std::time::{Duration, Instant};

use countersign_broker::{Error, topology};
use countersign_delivery::Topology;
use countersign_delivery::ports::broker::{Consumers, Published, Publisher, Settlement};
use countersign_launcher::RabbitMq;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::time::timeout;

use crate::publishing::tempfile_dir;
use crate::rig::{Rig, SOON, config, ground, quorum, raw, to};

const TOPOLOGY: &str = "
[checks]
check_delay_ms = 300
recheck_delays_ms = [200]

[[exchange]]
name = 'orders'
kind = 'topic'

[[exchange]]
name = 'by.region'
kind = 'headers'

[[subscription]]
name = 'inventory'
retry_delays_ms = [100]
bind = [{ exchange = 'orders', routing_key = 'order.#' }, { exchange = 'by.region', arguments = { x-match = 'any', region = 'eu' } }]
";

fn parsed() -> Topology {
    Topology::from_toml(TOPOLOGY).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_applied_is_verified_and_routes() {
    let ground = ground("apply").await;
    let config = config(&ground.amqp_url());
    let away = config.clone();
    // Services do this in a task of their own.
    let missing = tokio::spawn(async move { topology::verify(&away, &parsed()).await }).await.unwrap().unwrap();
    assert!(missing.iter().any(|word| word.starts_with("queue inventory does not exist")), "{missing:?}");
    let applied = topology::apply(&config, &parsed()).await.unwrap();
    assert_eq!((applied.exchanges, applied.queues, applied.bindings), (3, 9, 2));
    assert_eq!(topology::apply(&config, &parsed()).await.unwrap(), applied, "twice is once");
    assert_eq!(topology::verify(&config, &parsed()).await.unwrap(), Vec::<String>::new());
    assert_eq!(topology::verify_arguments(&config, &parsed()).await.unwrap(), Vec::<String>::new());

    let rig = Rig::up(config.url.expose()).await;
    let mut publication = to("order.created", "1");
    publication.exchange = "orders".into();
    assert_eq!(rig.broker.publish(vec![publication]).await, [Published::Confirmed]);
    let mut consumer = rig.broker.consume("inventory", 5).await.unwrap();
    let got = timeout(SOON, consumer.next(1)).await.unwrap();
    consumer.settler().settle(&[got[0].handle], Settlement::DeadLetter).await;
    let mut dead = rig.broker.consume("inventory.limit", 5).await.unwrap();
    assert_eq!(timeout(SOON, dead.next(1)).await.unwrap()[0].properties.message_id.as_deref(), Some("1"));
    drop((consumer, dead));
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tiers_delay_and_hand_on() {
    let ground = ground("tiers").await;
    let config = config(&ground.amqp_url());
    topology::apply(&config, &parsed()).await.unwrap();
    let rig = Rig::up(config.url.expose()).await;
    for (tier, target, delay) in
        [("countersign.checks.300", "countersign.checks", 300), ("inventory.retry.100", "inventory", 100)]
    {
        let mut consumer = rig.broker.consume(target, 5).await.unwrap();
        let started = Instant::now();
        assert_eq!(rig.broker.publish(vec![to(tier, "late")]).await, [Published::Confirmed]);
        let got = timeout(SOON, consumer.next(1)).await.unwrap();
        assert!(started.elapsed() >= Duration::from_millis(delay), "{tier}: {:?}", started.elapsed());
        assert_eq!(got[0].routing_key, target);
        consumer.settler().settle(&[got[0].handle], Settlement::Ack).await;
        drop(consumer);
    }
    rig.end().await;
}

/// With at-most-once dead-lettering a message whose target is missing is dropped. With at-least-once it waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tier_keeps_its_messages_while_their_target_is_away() {
    let dir = tempfile_dir("at_least_once");
    let node = RabbitMq::start(dir.path()).await.unwrap();
    // The broker tries undeliverable dead letters again after this long; three minutes if left alone.
    node.ctl(&["eval", "application:set_env(rabbit, dead_letter_worker_publisher_confirm_timeout, 1000)."]).await.unwrap();
    let config = config(&node.amqp_url("/"));
    topology::apply(&config, &parsed()).await.unwrap();
    let (_connection, channel) = raw(config.url.expose()).await;
    let rig = Rig::up(config.url.expose()).await;
    channel.queue_delete("inventory".into(), QueueDeleteOptions::default()).await.unwrap();
    let outcomes = rig.broker.publish((0..20).map(|number| to("inventory.retry.100", number)).collect()).await;
    assert_eq!(outcomes, vec![Published::Confirmed; 20]);
    // Long enough for the TTL to have passed several times over.
    tokio::time::sleep(Duration::from_secs(1)).await;
    topology::apply(&config, &parsed()).await.unwrap();
    let mut consumer = rig.broker.consume("inventory", 50).await.unwrap();
    let mut got = std::collections::BTreeSet::new();
    while got.len() < 20 {
        let delivered = timeout(SOON, consumer.next(50)).await.expect("nothing was dropped");
        got.extend(delivered.into_iter().filter_map(|delivered| delivered.properties.message_id));
    }
    drop(consumer);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_differs_is_named_and_left_alone() {
    let ground = ground("differs").await;
    let config = config(&ground.amqp_url());
    let (_connection, channel) = raw(config.url.expose()).await;
    quorum(&channel, "inventory", &[("x-delivery-limit", AMQPValue::LongInt(3))]).await;
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare("inventory.dead".into(), options, FieldTable::default()).await.unwrap();
    let refused = topology::apply(&config, &parsed()).await;
    let Err(Error::Refused(words)) = &refused else { panic!("{refused:?}") };
    assert!(words.iter().any(|word| word.contains("queue inventory ") && word.contains("inequivalent arg")), "{words:?}");
    assert!(words.iter().any(|word| word.contains("inventory.dead") && word.contains("x-queue-type")), "{words:?}");
    assert_eq!(words.len(), 2, "{words:?}");
    assert_eq!(topology::verify(&config, &parsed()).await.unwrap(), Vec::<String>::new(), "all exist");
    assert_eq!(topology::verify_arguments(&config, &parsed()).await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_without_permission_to_configure_can_verify_and_work() {
    let dir = tempfile_dir("rights");
    let node = RabbitMq::start(dir.path()).await.unwrap();
    let admin = config(&node.amqp_url("/"));
    topology::apply(&admin, &parsed()).await.unwrap();
    node.ctl(&["add_user", "service", "secret"]).await.unwrap();
    let service = config(&admin.url.expose().replace("guest:guest", "service:secret"));
    let stranger = topology::verify(&service, &parsed()).await;
    assert!(matches!(&stranger, Err(error @ Error::Down(_)) if !error.is_transient()), "{stranger:?}");
    node.ctl(&["set_permissions", "service", "^$", ".*", ".*"]).await.unwrap();
    assert_eq!(topology::verify(&service, &parsed()).await.unwrap(), Vec::<String>::new());
    let refused = topology::apply(&service, &parsed()).await;
    assert!(matches!(&refused, Err(Error::Refused(words)) if words[0].contains("ACCESS_REFUSED")), "{refused:?}");
    let rig = Rig::up(service.url.expose()).await;
    assert_eq!(rig.broker.publish(vec![to("inventory", 1)]).await, [Published::Confirmed]);
    rig.end().await;
}

const FALLING_BACK: &str = "
[[exchange]]
name = 'orders'
kind = 'topic'
alternate = 'rest'

[[exchange]]
name = 'rest'
kind = 'fanout'
internal = true

[[subscription]]
name = 'inventory'
retry_delays_ms = []
bind = [{ exchange = 'orders', routing_key = 'order.#' }]

[[subscription]]
name = 'leftovers'
retry_delays_ms = []
bind = [{ exchange = 'rest' }]
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alternate_exchange_is_declared_compared_and_gets_the_rest() {
    let ground = ground("alternate").await;
    let config = config(&ground.amqp_url());
    let wanted = Topology::from_toml(FALLING_BACK).unwrap();
    topology::apply(&config, &wanted).await.unwrap();
    topology::apply(&config, &wanted).await.expect("twice is once");
    assert_eq!(topology::verify_arguments(&config, &wanted).await.unwrap(), Vec::<String>::new());

    let rig = Rig::up(config.url.expose()).await;
    for (key, queue) in [("order.created", "inventory"), ("stock.moved", "leftovers")] {
        let mut publication = to(key, key);
        publication.exchange = "orders".into();
        assert_eq!(rig.broker.publish(vec![publication]).await, [Published::Confirmed]);
        let mut consumer = rig.broker.consume(queue, 5).await.unwrap();
        let got = timeout(SOON, consumer.next(1)).await.unwrap();
        assert_eq!((got[0].exchange.as_str(), got[0].routing_key.as_str()), ("orders", key), "as it was published");
        consumer.settler().settle(&[got[0].handle], Settlement::Ack).await;
    }
    rig.end().await;

    for text in
        [FALLING_BACK.replace("alternate = 'rest'", ""), FALLING_BACK.replace("alternate = 'rest'", "alternate = 'orders'")]
    {
        let other = Topology::from_toml(&text).unwrap();
        let differences = topology::verify_arguments(&config, &other).await.unwrap();
        let [difference] = &differences[..] else { panic!("{differences:?}") };
        assert!(difference.contains("exchange orders") && difference.contains("alternate-exchange"), "{difference}");
        assert!(matches!(topology::apply(&config, &other).await, Err(Error::Refused(words)) if words.len() == 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bound_of_a_work_queue_is_declared_compared_and_kept() {
    let ground = ground("bounded").await;
    let config = config(&ground.amqp_url());
    let bounded = |bound: &str| {
        Topology::from_toml(&TOPOLOGY.replace("name = 'inventory'", &format!("name = 'inventory'{bound}"))).unwrap()
    };
    let wanted = bounded("\nmax_length = 3");
    topology::apply(&config, &wanted).await.unwrap();
    topology::apply(&config, &wanted).await.expect("twice is once");
    assert_eq!(topology::verify_arguments(&config, &wanted).await.unwrap(), Vec::<String>::new());
    for other in [bounded(""), bounded("\nmax_length = 4")] {
        let differences = topology::verify_arguments(&config, &other).await.unwrap();
        let [difference] = &differences[..] else { panic!("{differences:?}") };
        assert!(difference.contains("queue inventory ") && difference.contains("x-max-length"), "{difference}");
    }

    let rig = Rig::up(config.url.expose()).await;
    // One after the other: a quorum queue tells its channels that it is full a moment after it is.
    let mut outcomes = Vec::new();
    while !outcomes.contains(&Published::Nacked) {
        assert!(outcomes.len() < 100, "it never refuses");
        outcomes.extend(rig.broker.publish(vec![to("inventory", outcomes.len())]).await);
    }
    assert!(outcomes.len() > 3, "it has room for three: {outcomes:?}");
    rig.end().await;
}
