//! The topology: what contradicts itself, who is required, which delay comes next.

use std::collections::BTreeMap;

use countersign_delivery::policy::Policy;
use countersign_delivery::topology::TopologyError;
use countersign_delivery::{SubscriptionName, Topology};

const SOUND: &str = r##"
version = 1
prefix = "cs"

[checks]
check_delay_ms = 120000
recheck_delays_ms = [15000, 60000]

[[exchange]]
name = "orders"
kind = "topic"

[[exchange]]
name = "news"
kind = "fanout"

[[exchange]]
name = "by"
kind = "headers"

[[subscription]]
name = "inventory"
[[subscription.bind]]
exchange = "orders"
routing_key = "order.*"
[[subscription.bind]]
exchange = "news"

[[subscription]]
name = "audit"
retry_delays_ms = [1000]
probes = false
[[subscription.bind]]
exchange = "orders"
routing_key = "#"
"##;

fn sound() -> Topology {
    Topology::from_toml(SOUND).unwrap()
}

fn names(topology: &Topology, exchange: &str, key: &str) -> Vec<String> {
    topology.required(exchange, key, &BTreeMap::new()).iter().map(ToString::to_string).collect()
}

#[test]
fn every_contradiction_is_named() {
    let rows = [
        ("version = 1", "version = 2", "version is 2"),
        ("prefix = \"cs\"", "prefix = \"c s\"", "prefix"),
        ("recheck_delays_ms = [15000, 60000]", "recheck_delays_ms = []", "recheck_delays_ms is empty"),
        ("check_delay_ms = 120000", "check_delay_ms = 0", "a delay of 0 ms"),
        ("retry_delays_ms = [1000]", "retry_delays_ms = [4294967296]", "a delay of 4294967296 ms"),
        ("retry_delays_ms = [1000]", "retry_delays_ms = [1000, 5, 1000]", "audit has 1000 in retry_delays_ms twice"),
        ("name = \"news\"", "name = \"orders\"", "exchange orders is declared twice"),
        ("name = \"news\"", "name = \"amq.news\"", "not beginning with `amq.`"),
        ("name = \"news\"", "name = \"\"", "exchange name \"\""),
        ("name = \"audit\"", "name = \"inventory\"", "subscription inventory is declared twice"),
        ("name = \"audit\"", "name = \"amq.audit\"", "queue amq.audit begins with `amq.`"),
        ("prefix = \"cs\"", "prefix = \"amq\"", "queue amq.receipts begins with `amq.`"),
        ("name = \"audit\"", "name = \"cs\"", "begins with the prefix"),
        ("name = \"audit\"", "name = \"cs.receipts\"", "begins with the prefix"),
        ("name = \"audit\"", "name = \"inventory.dead\"", "belongs to subscription inventory"),
        ("name = \"audit\"", "name = \"inventory.limit\"", "belongs to subscription inventory"),
        ("name = \"audit\"", "name = \"inventory.retry.1000\"", "belongs to subscription inventory"),
        ("exchange = \"news\"", "exchange = \"olds\"", "unknown exchange \"olds\""),
        ("name = \"news\"", "name = \"ne\\nws\"", "has a line break"),
        (
            "kind = \"fanout\"",
            "kind = \"fanout\"\nalternate = \"olds\"",
            "exchange news has the unknown alternate \"olds\": declare it",
        ),
        ("kind = \"fanout\"", "kind = \"fanout\"\nalternate = \"\"", "exchange news has the unknown alternate \"\""),
        (
            "kind = \"topic\"",
            "kind = \"topic\"\ndurable = false\n[[exchange]]\nname = \"x\"\nkind = \"direct\"\nalternate = \"orders\"",
            "make orders durable",
        ),
        (
            "kind = \"topic\"",
            "kind = \"topic\"\nauto_delete = true\n[[exchange]]\nname = \"x\"\nkind = \"direct\"\nalternate = \"orders\"",
            "take auto_delete out of orders",
        ),
        (
            "exchange = \"news\"",
            "exchange = \"by\"\narguments = { x-match = \"some\" }",
            "binds to by with x-match \"some\": use all, any, all-with-x",
        ),
        (
            "exchange = \"news\"",
            "exchange = \"by\"\narguments = { countersign-attempt = \"1\" }",
            "by the header countersign-attempt, which is",
        ),
        ("exchange = \"news\"", "exchange = \"by\"\narguments = { traceparent = \"1\" }", "by the header traceparent, which is"),
    ];
    for (from, to, expected) in rows {
        assert!(SOUND.contains(from), "{from}");
        match Topology::from_toml(&SOUND.replace(from, to)) {
            Err(TopologyError::Unsound(problems)) => {
                assert!(problems.iter().any(|problem| problem.contains(expected)), "{to}: {problems:?}");
            }
            other => panic!("{to}: {other:?}"),
        }
    }
    for (binding, expected) in [
        (
            "exchange = \"orders\"\nrouting_key = \"KEY\"".replace("KEY", &"k".repeat(256)),
            "routing_key of 256 bytes: use at most 255",
        ),
        ("exchange = \"orders\"\narguments = { KEY = \"v\" }".replace("KEY", &"k".repeat(256)), "whose name has 256 bytes"),
        ("exchange = \"by\"\narguments = { k = \"VALUE\" }".replace("VALUE", &"v".repeat(70_000)), "arguments of 70001 bytes"),
    ] {
        let refused = Topology::from_toml(&SOUND.replace("exchange = \"news\"", &binding)).unwrap_err().to_string();
        assert!(refused.contains(expected), "{refused}");
    }
    let mut unbound = sound();
    unbound.subscriptions[0].bindings.clear();
    assert_eq!(unbound.problems(), ["subscription inventory has no [[subscription.bind]]: nothing would reach it"]);
}

#[test]
fn unknown_keys_and_broken_files_are_refused() {
    for (from, to) in
        [("version = 1", "vresion = 1"), ("kind = \"fanout\"", "kind = \"fun\""), ("probes = false", "prods = false")]
    {
        let answer = Topology::from_toml(&SOUND.replace(from, to));
        assert!(matches!(answer, Err(TopologyError::Unreadable(_))), "{to}: {answer:?}");
    }
    assert!(Topology::default().problems().is_empty());
}

#[test]
fn who_is_required_follows_the_brokers_own_routing() {
    let topology = sound();
    let rows: [(&str, &str, &[&str]); 5] = [
        ("orders", "order.created", &["audit", "inventory"]),
        ("orders", "stock.moved.far", &["audit"]),
        ("news", "anything", &["inventory"]),
        ("nowhere", "order.created", &[]),
        ("", "inventory", &[]),
    ];
    for (exchange, key, expected) in rows {
        assert_eq!(names(&topology, exchange, key), expected, "{exchange} {key}");
    }
}

#[test]
fn what_no_binding_lets_through_goes_on_to_the_alternate_exchange() {
    let text = r#"
[[exchange]]
name = "first"
kind = "direct"
alternate = "second"

[[exchange]]
name = "second"
kind = "topic"
internal = true
alternate = "third"

[[exchange]]
name = "third"
kind = "headers"
alternate = "first"

[[exchange]]
name = "itself"
kind = "direct"
alternate = "itself"

[[subscription]]
name = "one"
bind = [{ exchange = "first", routing_key = "a" }, { exchange = "itself", routing_key = "a" }]

[[subscription]]
name = "two"
bind = [{ exchange = "second", routing_key = "*" }]

[[subscription]]
name = "three"
bind = [{ exchange = "third", arguments = { region = "eu" } }]
"#;
    let topology = Topology::from_toml(text).unwrap();
    let eu = BTreeMap::from([("region".to_owned(), "eu".to_owned())]);
    let rows: [(&str, &str, &[&str]); 7] = [
        ("first", "a", &["one"]),
        ("first", "b", &["two"]),
        ("first", "b.c", &["three"]),
        ("second", "", &["three"]),
        ("third", "a", &["three"]),
        ("itself", "a", &["one"]),
        ("itself", "b", &[]),
    ];
    for (exchange, key, expected) in rows {
        let required: Vec<_> = topology.required(exchange, key, &eu).iter().map(ToString::to_string).collect();
        assert_eq!(required, expected, "{exchange} {key}");
    }
    assert_eq!(names(&topology, "third", "a"), ["one"], "round the circle");
    assert_eq!(names(&topology, "first", "b.c"), [""; 0], "the circle closes");
    let chain: Vec<_> = topology.alternates("second").map(|exchange| exchange.name.as_str()).collect();
    assert_eq!(chain, ["second", "third", "first"]);
}

#[test]
fn queues_are_named_after_their_owner() {
    let topology = sound();
    let [inventory, audit] = &topology.subscriptions[..] else { panic!("two subscriptions") };
    assert_eq!((topology.receipts_queue(), topology.checks_queue()), ("cs.receipts".into(), "cs.checks".into()));
    assert_eq!(topology.check_tier_queue(15_000), "cs.checks.15000");
    assert_eq!(topology.check_tiers(), [15_000, 60_000, 120_000]);
    assert_eq!((inventory.dead_queue(), inventory.retry_queue(5)), ("inventory.dead".into(), "inventory.retry.5".into()));
    assert_eq!(inventory.dead_letter_queue(), "inventory.limit");
    assert_eq!(audit.dead_letter_queue(), "audit.dead", "nobody reads the other one there");
    assert!(topology.subscription(&SubscriptionName::new("audit").unwrap()).is_some());
}

#[test]
fn rechecks_grow_and_the_last_delay_repeats() {
    let topology = sound();
    let delays: Vec<u64> = (0..4).map(|waits| topology.recheck_delay_ms(waits)).collect();
    assert_eq!(delays, [15_000, 60_000, 60_000, 60_000]);
    let mut waited = topology.checks.check_delay_ms;
    for waits in 0..50 {
        assert_eq!(topology.waited_ms(waits), waited, "after {waits} waits");
        waited += topology.recheck_delay_ms(waits);
    }
    assert!(topology.waited_ms(u32::MAX) > waited, "no overflow");
}

#[test]
fn a_policys_problems_are_named() {
    assert!(Policy::default().problems().is_empty());
    let rows = [
        Policy { resend_lease_ms: 0, ..Policy::default() },
        Policy { probe_grace_ms: 0, ..Policy::default() },
        Policy { overdue_ms: 0, ..Policy::default() },
        Policy { unprobed_timeout_ms: 0, ..Policy::default() },
        Policy { probe_replace_max_ms: 29_999, ..Policy::default() },
        Policy { max_unknown_answers: 1, ..Policy::default() },
    ];
    for policy in rows {
        assert_eq!(policy.problems().len(), 1, "{policy:?}");
    }
}
