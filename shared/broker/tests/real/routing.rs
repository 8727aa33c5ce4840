//! `Topology::required` against the broker's own routing: generated topologies, each message compared.

use std::cell::{Cell, OnceCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use countersign_broker::topology::{ALTERNATE, Plan};
use countersign_delivery::ports::broker::{HeaderValue, Published, Publisher};
use countersign_delivery::routing::ExchangeKind;
use countersign_delivery::topology::{Binding, Exchange, Guard, Subscription};
use countersign_delivery::{SubscriptionName, Topology};
use lapin::Channel;
use lapin::options::{
    BasicGetOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use crate::rig::{Rig, answered, ground, raw, to};

/// How many topologies are generated.
const TOPOLOGIES: u32 = 100;
const EXCHANGES: usize = 5;
const QUEUES: usize = 4;
/// Most steps to a smaller counterexample.
const SHRINKS: u32 = 300;
/// Longest search for a smaller counterexample, milliseconds.
const SHRINKING_MS: u32 = 60_000;

/// A topology whose names are unique to the run, and what is published to it.
#[derive(Clone, Debug)]
struct Case {
    exchanges: Vec<ExchangeCase>,
    /// Queue, exchange, key, arguments.
    bindings: Vec<(usize, usize, String, BTreeMap<String, String>)>,
    messages: Vec<MessageCase>,
}

#[derive(Clone, Debug)]
struct ExchangeCase {
    kind: ExchangeKind,
    durable: bool,
    auto_delete: bool,
    internal: bool,
    alternate: Option<usize>,
}

#[derive(Clone, Debug)]
struct MessageCase {
    exchange: usize,
    routing_key: String,
    headers: BTreeMap<String, String>,
}

/// Few words, so that keys and patterns meet often; empty words come as `a..b`, and as dots at either end.
fn key() -> impl Strategy<Value = String> {
    let word = select(vec!["a", "b", "", "*", "#", "a*", "*#"]);
    prop_oneof![
        8 => vec(word, 0..5).prop_map(|words| words.join(".")),
        1 => select(vec![".".to_owned(), "..".into(), "a.".into(), ".a".into(), "a..b".into(), "#.#.#".into(), "ä.ö".into()]),
        1 => select(vec!["k".repeat(255), format!("{}a", "a.".repeat(127)), format!("{}#", "a.".repeat(127))]),
    ]
}

fn headers() -> impl Strategy<Value = BTreeMap<String, String>> {
    let name = select(vec!["a", "b", "x-a", "x-", "x", "X-a", "ä"]);
    btree_map(name.prop_map(str::to_owned), select(vec!["1", "2", ""]).prop_map(str::to_owned), 0..4)
}

fn arguments() -> impl Strategy<Value = BTreeMap<String, String>> {
    let how = select(vec![None, Some("all"), Some("any"), Some("all-with-x"), Some("any-with-x")]);
    (headers(), how).prop_map(|(mut arguments, how)| {
        arguments.extend(how.map(|how| ("x-match".to_owned(), how.to_owned())));
        arguments
    })
}

fn exchange() -> impl Strategy<Value = ExchangeCase> {
    let kind =
        select(vec![ExchangeKind::Direct, ExchangeKind::Topic, ExchangeKind::Topic, ExchangeKind::Fanout, ExchangeKind::Headers]);
    let alternate = prop::option::weighted(0.7, 0..EXCHANGES);
    (kind, any::<bool>(), any::<bool>(), prop::bool::weighted(0.2), alternate).prop_map(
        |(kind, durable, auto_delete, internal, alternate)| ExchangeCase { kind, durable, auto_delete, internal, alternate },
    )
}

fn case() -> impl Strategy<Value = Case> {
    let message = (0..EXCHANGES, key(), headers());
    let message = message.prop_map(|(exchange, routing_key, headers)| MessageCase { exchange, routing_key, headers });
    let binding = (0..QUEUES, 0..EXCHANGES, key(), arguments());
    (vec(exchange(), EXCHANGES), vec(binding, 4..16), vec(message, 12)).prop_map(|(exchanges, bindings, messages)| Case {
        exchanges,
        bindings,
        messages,
    })
}

impl Case {
    fn topology(&self, number: u32) -> Topology {
        let exchange_name = |at: usize| format!("e{number}.{at}");
        let exchanges = self.exchanges.iter().enumerate().map(|(at, case)| Exchange {
            name: exchange_name(at),
            kind: case.kind,
            durable: case.durable,
            auto_delete: case.auto_delete,
            internal: case.internal,
            alternate: case.alternate.map(exchange_name),
        });
        let subscriptions = (0..QUEUES).map(|at| Subscription {
            name: SubscriptionName::new(&format!("q{number}.{at}")).unwrap(),
            bindings: self
                .bindings
                .iter()
                .filter(|binding| binding.0 == at)
                .map(|(_, exchange, key, arguments)| Binding {
                    exchange: exchange_name(*exchange),
                    routing_key: key.clone(),
                    arguments: arguments.clone(),
                })
                .collect(),
            retry_delays_ms: Vec::new(),
            guard: Guard::default(),
            probes: true,
            max_length: None,
        });
        Topology { exchanges: exchanges.collect(), subscriptions: subscriptions.collect(), ..Topology::default() }
    }
}

fn table<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in pairs {
        table.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    table
}

/// With plain queues: the routing is the same, and declaring hundreds of quorum queues takes minutes.
async fn declare(channel: &Channel, topology: &Topology) -> Result<(), String> {
    let plan = Plan::of(topology);
    for exchange in &plan.exchanges {
        let options = ExchangeDeclareOptions {
            durable: exchange.durable,
            auto_delete: exchange.auto_delete,
            internal: exchange.internal,
            ..ExchangeDeclareOptions::default()
        };
        let kind = match exchange.kind {
            ExchangeKind::Direct => lapin::ExchangeKind::Direct,
            ExchangeKind::Topic => lapin::ExchangeKind::Topic,
            ExchangeKind::Fanout => lapin::ExchangeKind::Fanout,
            ExchangeKind::Headers => lapin::ExchangeKind::Headers,
        };
        let arguments = table(exchange.alternate.iter().map(|alternate| (ALTERNATE, alternate.as_str())));
        let declared = channel.exchange_declare(exchange.name.as_str().into(), kind, options, arguments);
        answered(format_args!("declaring the exchange {}", exchange.name), declared).await?;
    }
    for Subscription { name, .. } in &topology.subscriptions {
        let declared = channel.queue_declare(name.as_str().into(), QueueDeclareOptions::default(), FieldTable::default());
        answered(format_args!("declaring the queue {name}"), declared).await?;
    }
    for binding in &plan.bindings {
        let arguments = table(binding.arguments.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let (queue, exchange, key) = (&binding.queue, &binding.exchange, &binding.routing_key);
        let (to, from, by) = (queue.as_str().into(), exchange.as_str().into(), key.as_str().into());
        let bound = channel.queue_bind(to, from, by, QueueBindOptions::default(), arguments);
        answered(format_args!("binding the queue {queue} to {exchange} by {key:?}"), bound).await?;
    }
    Ok(())
}

async fn delete(channel: &Channel, topology: &Topology) -> Result<(), String> {
    for Subscription { name, .. } in &topology.subscriptions {
        let deleted = channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default());
        answered(format_args!("deleting the queue {name}"), deleted).await?;
    }
    for Exchange { name, .. } in &topology.exchanges {
        let deleted = channel.exchange_delete(name.as_str().into(), ExchangeDeleteOptions::default());
        answered(format_args!("deleting the exchange {name}"), deleted).await?;
    }
    Ok(())
}

/// Which queues each message lies in, by its number.
async fn arrived(channel: &Channel, topology: &Topology) -> Result<BTreeMap<String, BTreeSet<String>>, String> {
    let mut arrived: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for Subscription { name, .. } in &topology.subscriptions {
        let get = || channel.basic_get(name.as_str().into(), BasicGetOptions { no_ack: true });
        while let Some(got) = answered(format_args!("getting from the queue {name}"), get()).await? {
            let id = got.delivery.properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default();
            let first = arrived.entry(id).or_default().insert(name.to_string());
            assert!(first, "one copy for each queue");
        }
    }
    Ok(arrived)
}

/// How often each way of routing came up, so that the test cannot pass by generating nothing of interest.
#[derive(Debug, Default)]
struct Seen {
    by_own_bindings: u32,
    by_alternate: u32,
    returned: u32,
}

/// Publishes the case's messages and compares where they went. The inner result is the comparison.
///
/// # Errors
/// When the broker gave no answer, so that there is nothing to compare.
async fn compare(
    (rig, channel): (&Rig, &Channel),
    case: &Case,
    topology: &Topology,
    seen: &mut Seen,
) -> Result<Result<(), TestCaseError>, String> {
    declare(channel, topology).await?;
    // A client may not publish to an internal exchange; it is reached as an alternate.
    let open: Vec<_> = case.messages.iter().filter(|message| !case.exchanges[message.exchange].internal).collect();
    let publications = open.iter().enumerate().map(|(number, message)| {
        let mut publication = to(&message.routing_key, number);
        publication.exchange.clone_from(&topology.exchanges[message.exchange].name);
        publication
            .properties
            .headers
            .extend(message.headers.iter().map(|(name, value)| (name.clone(), HeaderValue::Text(value.clone()))));
        publication
    });
    let outcomes = rig.broker.publish(publications.collect()).await;
    if outcomes.contains(&Published::Unknown) {
        return Err(format!("publishing to {:?}: {outcomes:?}", rig.broker.state().borrow()));
    }
    let arrived = arrived(channel, topology).await?;
    let mut compared = Ok(());
    for (number, (message, outcome)) in open.into_iter().zip(&outcomes).enumerate() {
        let got = arrived.get(&number.to_string()).cloned().unwrap_or_default();
        compared = compared.and_then(|()| compare_one(topology, message, outcome, &got, seen));
    }
    delete(channel, topology).await?;
    Ok(compared)
}

fn compare_one(
    topology: &Topology,
    message: &MessageCase,
    outcome: &Published,
    got: &BTreeSet<String>,
    seen: &mut Seen,
) -> Result<(), TestCaseError> {
    let exchange = &topology.exchanges[message.exchange];
    let required = topology.required(&exchange.name, &message.routing_key, &message.headers);
    let required: BTreeSet<_> = required.iter().map(ToString::to_string).collect();
    prop_assert_eq!(got, &required, "{:?} to {:?}: the broker's word on the left", message, exchange);
    let returned = matches!(outcome, Published::Returned { .. });
    prop_assert!(returned || *outcome == Published::Confirmed, "{:?}: {:?}", message, outcome);
    prop_assert_eq!(returned, required.is_empty(), "{:?}: {:?}", message, outcome);
    let own = topology.subscriptions.iter().flat_map(|one| &one.bindings).any(|binding| {
        let (key, arguments) = (&binding.routing_key, &binding.arguments);
        binding.exchange == exchange.name && exchange.kind.matches(key, arguments, &message.routing_key, &message.headers)
    });
    match (required.is_empty(), own) {
        (true, _) => seen.returned += 1,
        (false, true) => seen.by_own_bindings += 1,
        (false, false) => seen.by_alternate += 1,
    }
    Ok(())
}

#[test]
fn who_is_required_is_who_gets_it() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (ground, rig, (_connection, channel)) = runtime.block_on(async {
        let ground = ground("routing").await;
        let url = ground.amqp_url();
        (ground, Rig::up(&url).await, raw(&url).await)
    });
    let config = Config {
        cases: TOPOLOGIES,
        max_shrink_iters: SHRINKS,
        max_shrink_time: SHRINKING_MS,
        failure_persistence: None,
        ..Config::default()
    };
    let (number, seen, trouble) = (Cell::new(0), Mutex::new(Seen::default()), OnceCell::new());
    let outcome = TestRunner::new(config).run(&case(), |case| {
        if let Some(trouble) = trouble.get() {
            // No smaller case mends a broker that does not answer.
            return Err(TestCaseError::fail(String::clone(trouble)));
        }
        number.set(number.get() + 1);
        let topology = case.topology(number.get());
        let mut seen = seen.lock().unwrap();
        runtime.block_on(compare((&rig, &channel), &case, &topology, &mut seen)).unwrap_or_else(|silence| {
            Err(TestCaseError::fail(trouble.get_or_init(|| format!("topology {}: {silence}", number.get())).clone()))
        })
    });
    assert_eq!(trouble.get(), None, "nothing to compare");
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    let seen = seen.into_inner().unwrap();
    println!("{} topologies: {seen:?}", number.get());
    assert!(seen.by_own_bindings > 50 && seen.by_alternate > 50 && seen.returned > 50, "{seen:?}");
    runtime.block_on(rig.end());
    drop(ground);
}

/// Why a topology file is refused for them: the broker would not take these either, or would make something else of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_topology_is_refused_for_the_broker_does_not_take_as_it_is() {
    let ground = ground("refused").await;
    let (connection, mut channel) = raw(&ground.amqp_url()).await;
    let (passive, plain) =
        (ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() }, ExchangeDeclareOptions::default());
    for options in [plain, passive] {
        let name = if options.passive { "ab" } else { "a\r\nb" };
        let declared = channel.exchange_declare(name.into(), lapin::ExchangeKind::Headers, options, FieldTable::default());
        answered("declaring an exchange", declared).await.unwrap();
    }

    let declared = channel.queue_declare("q".into(), QueueDeclareOptions::default(), FieldTable::default());
    answered("declaring a queue", declared).await.unwrap();
    let some = table([("x-match", "some")].into_iter());
    let bound = channel.queue_bind("q".into(), "ab".into(), "".into(), QueueBindOptions::default(), some);
    assert!(answered("binding", bound).await.unwrap_err().contains("x-match"));

    channel = answered("opening a channel", connection.create_channel()).await.unwrap();
    let declared = channel.queue_declare("amq.audit".into(), QueueDeclareOptions::default(), FieldTable::default());
    assert!(answered("declaring", declared).await.unwrap_err().contains("amq."));

    // An alternate exchange that is gone is passed over without a word.
    channel = answered("opening a channel", connection.create_channel()).await.unwrap();
    let gone = table([(ALTERNATE, "gone")].into_iter());
    let declared = channel.exchange_declare("falls".into(), lapin::ExchangeKind::Fanout, plain, gone);
    answered("declaring an exchange", declared).await.unwrap();
    let rig = Rig::up(&ground.amqp_url()).await;
    let mut publication = to("key", 1);
    publication.exchange = "falls".into();
    assert!(matches!(&rig.broker.publish(vec![publication]).await[..], [Published::Returned { .. }]));
    rig.end().await;
}
