//! What is written is read back; what cannot be read says why.

use std::collections::BTreeMap;

use countersign_delivery::check::{Check, CheckBatch, Mark};
use countersign_delivery::ports::broker::{Delivered, Handle, HeaderValue, Properties, Publication};
use countersign_delivery::probe::Lane;
use countersign_delivery::receipt::{ProbeAnswer, Receipt, ReceiptBatch};
use countersign_delivery::{
    Attempt, FailReason, Fingerprint, Message, MessageId, Outcome, SubscriptionName, Timestamp, Topology, TraceContext,
    UpstreamName,
};
use countersign_wire::history::{Entry, History, What};
use countersign_wire::publication::Publish;
use countersign_wire::{WireError, arrival, checks, dead_letter, names, probes, publication, receipts};
use prost::bytes::Bytes;

fn id(last: u8) -> MessageId {
    MessageId::parse(&format!("019abcde-0000-7000-8000-0000000000{last:02x}")).expect("a UUIDv7")
}

fn subscription(name: &str) -> SubscriptionName {
    SubscriptionName::new(name).expect("a name")
}

fn upstream() -> UpstreamName {
    UpstreamName::new("orders").expect("a name")
}

fn trace() -> TraceContext {
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned();
    TraceContext { traceparent, tracestate: Some("vendor=1".into()) }
}

fn message() -> Message {
    Message {
        mode: countersign_delivery::topology::Mode::Verified,
        id: id(1),
        fingerprint: Fingerprint::of("order.created", "application/json", b"{}"),
        idempotency_key: None,
        required: vec![subscription("inventory.orders")],
        exchange: "orders".into(),
        routing_key: "order.created".into(),
        kind: "order.created".into(),
        content_type: "application/json".into(),
        headers: BTreeMap::from([("tenant".to_owned(), "eu".to_owned())]),
        body: Bytes::from_static(b"{}"),
        sent_at: Timestamp::from_millis(1_700_000_000_123),
        trace: Some(trace()),
    }
}

fn delivered(publication: Publication) -> Delivered {
    Delivered {
        handle: Handle { generation: 1, tag: 1 },
        exchange: publication.exchange,
        routing_key: publication.routing_key,
        redelivered: false,
        properties: publication.properties,
        body: publication.body,
    }
}

#[test]
fn a_check_batch_survives_the_wire() {
    let check = |last, required: &[&str], marks| Check {
        message_id: id(last),
        fingerprint: Fingerprint::new(vec![last; 16]).expect("16 bytes"),
        attempt: Attempt { epoch: 2, number: 3 },
        waits: 4,
        sent_at: Timestamp::from_millis(5),
        required: required.iter().map(|name| subscription(name)).collect(),
        marks,
        trace: Some(trace()),
    };
    let mark = |live_until| Mark { subscription: subscription("b"), probe_after: 7, live_until };
    let checks = vec![
        check(1, &["a", "b"], vec![mark(None)]),
        check(2, &["a", "b"], vec![mark(Some(Timestamp::from_millis(-1)))]),
        check(3, &["c"], vec![]),
    ];
    let batch = CheckBatch { upstream: upstream(), checks };
    assert_eq!(checks::decode(checks::encode(&batch)).expect("decodes"), batch);
}

#[test]
fn a_receipt_batch_survives_the_wire() {
    let outcomes = [
        Outcome::Done,
        Outcome::Failed { reason: FailReason::Poison, detail: "crashed five times".into() },
        Outcome::Retrying { delay_ms: 10_000, detail: "busy".into() },
        Outcome::Processing { lease_ms: 30_000 },
    ];
    let receipts = outcomes.into_iter().map(|outcome| Receipt {
        message_id: id(1),
        subscription: subscription("a"),
        upstream: upstream(),
        fingerprint: message().fingerprint,
        attempt: Attempt::FIRST,
        sent_at: Timestamp::from_millis(5),
        outcome,
        trace: Some(trace()),
    });
    let lane = |retry_delay_ms| Lane { subscription: subscription("b"), retry_delay_ms };
    let probes = vec![ProbeAnswer { lane: lane(None), number: 1 }, ProbeAnswer { lane: lane(Some(1_000)), number: 2 }];
    let batch = ReceiptBatch { receipts: receipts.collect(), probes };
    assert_eq!(receipts::decode(Some(names::PROTOBUF), receipts::encode(&batch)).expect("decodes"), batch);
}

#[test]
fn a_consumer_in_any_language_signs_in_json() {
    let json = format!(
        r#"{{"message_id":"{}","subscription":"audit","upstream":"orders","fingerprint":"{}","sent_at_ms":5,"outcome":"done","note":"ignored"}}"#,
        id(1),
        message().fingerprint.to_hex()
    );
    let batch = receipts::decode(Some("application/json; charset=utf-8"), json.into()).expect("decodes");
    assert_eq!((batch.receipts[0].message_id, &batch.receipts[0].outcome), (id(1), &Outcome::Done));
    assert_eq!(batch.receipts[0].attempt, Attempt::FIRST);
}

#[test]
fn what_cannot_be_read_says_why() {
    assert!(matches!(checks::decode(Bytes::from_static(b"\xff\xff")), Err(WireError::Malformed(_))));
    assert!(matches!(checks::decode(Bytes::new()), Err(WireError::UnknownVersion(0))));
    assert!(matches!(receipts::decode(Some(names::JSON), Bytes::from_static(b"{}")), Err(WireError::Malformed(_))));
    let mut foreign = delivered(publication::to_exchange(&message(), &upstream(), Publish::FIRST));
    foreign.properties.headers.insert(names::WIRE.into(), HeaderValue::Int(9));
    assert!(matches!(arrival::read(&foreign), Err(WireError::UnknownVersion(9))));
    foreign.properties.headers.clear();
    assert!(matches!(arrival::read(&foreign), Err(WireError::Missing(_))));
}

#[test]
fn a_message_arrives_as_it_was_sent() {
    let sent = message();
    let arrival = arrival::read(&delivered(publication::to_exchange(&sent, &upstream(), Publish::FIRST))).expect("reads");
    assert_eq!((arrival.id, &arrival.fingerprint, &arrival.body), (sent.id, &sent.fingerprint, &sent.body));
    assert_eq!((&arrival.headers, &arrival.trace, arrival.sent_at), (&sent.headers, &sent.trace, sent.sent_at));
    assert_eq!((arrival.attempt, arrival.republished, arrival.retries), (Attempt::FIRST, false, 0));
}

#[test]
fn a_resend_and_a_retry_still_carry_the_original_route() {
    let publish = Publish { attempt: Attempt::FIRST.resent(), ..Publish::AGAIN };
    let resent = publication::to_subscription(&message(), &upstream(), &subscription("inventory.orders"), publish);
    assert_eq!((resent.exchange.as_str(), resent.routing_key.as_str()), ("", "inventory.orders"));
    let mut first = delivered(resent);
    first.properties.headers.insert("x-death".into(), HeaderValue::Text("the broker's".into()));
    let read = arrival::read(&first).expect("reads");
    assert_eq!((read.exchange.as_str(), read.routing_key.as_str(), read.republished), ("orders", "order.created", true));
    let tried = tried(1_000, "busy");
    let retried = arrival::retry_copy(&first, &read, "inventory.orders.retry.1000".into(), 1, Some(tried.clone()));
    assert!(!retried.properties.headers.contains_key("x-death"));
    assert_eq!(History::of(&retried.properties).entries, [tried]);
    let put_back = arrival::retry_copy(&first, &read, "inventory.orders.retry.1000".into(), 0, None);
    assert!(!put_back.properties.headers.contains_key(names::HISTORY), "what was only put back has no try");
    let again = arrival::read(&delivered(retried)).expect("reads");
    assert_eq!((again.routing_key.as_str(), again.retries, again.attempt.number), ("order.created", 1, 2));
}

/// The second effect of a message, as it is published for it.
fn second_effect() -> Delivered {
    let publish = Publish { attempt: Attempt { epoch: 2, number: 1 }, effect_epoch: 2, again: true };
    delivered(publication::to_subscription(&message(), &upstream(), &subscription("inventory.orders"), publish))
}

#[test]
fn every_copy_of_a_further_effect_carries_its_epoch_and_no_other_message_does() {
    let first = delivered(publication::to_exchange(&message(), &upstream(), Publish::FIRST));
    assert!(!first.properties.headers.contains_key(names::EFFECT_EPOCH));
    assert_eq!(arrival::read(&first).expect("reads").effect_epoch, 0);
    let second = second_effect();
    let read = arrival::read(&second).expect("reads");
    let retried = arrival::retry_copy(&second, &read, "inventory.orders.retry.1000".into(), 1, Some(tried(1_000, "busy")));
    let dead = delivered(arrival::dead_copy(&delivered(retried.clone()), "inventory.orders.dead".into(), death()));
    let order = dead_letter::Redrive { epoch: 3, effect_epoch: 0, by: "ann", reason: "mended", at: Timestamp::from_millis(20) };
    let redriven = dead_letter::redriven_copy(&dead, "inventory.orders".into(), order);
    for copy in [second, delivered(retried), dead, delivered(redriven)] {
        assert_eq!(arrival::read(&copy).expect("reads").effect_epoch, 2, "{copy:?}");
    }
}

#[test]
fn an_effect_epoch_that_is_no_such_number_cannot_be_read() {
    let text = HeaderValue::Text("2".into());
    for bad in [text, HeaderValue::Int(-1), HeaderValue::Int(1 << 31), HeaderValue::Bool(true), HeaderValue::Double(2.0)] {
        let mut message = second_effect();
        message.properties.headers.insert(names::EFFECT_EPOCH.into(), bad.clone());
        let error = arrival::read(&message).expect_err("it may not be guessed").to_string();
        assert_eq!(error, "header countersign-effect-epoch is out of range", "{bad:?}");
    }
    let mut message = second_effect();
    message.properties.headers.insert(names::EFFECT_EPOCH.into(), HeaderValue::Int((1 << 31) - 1));
    assert_eq!(arrival::read(&message).expect("reads").effect_epoch, countersign_delivery::message::EFFECT_EPOCH_MAX);
}

fn tried(delay_ms: u64, detail: &str) -> Entry {
    let what = What::retried(delay_ms);
    Entry { at: Timestamp::from_millis(7), attempt: Attempt::FIRST, what, detail: detail.into() }
}

/// Rejected at 9 by `downstream`.
fn death() -> arrival::Death<'static> {
    arrival::Death { reason: FailReason::Rejected, detail: "status 422", at: Timestamp::from_millis(9), by: "downstream" }
}

#[test]
fn a_dead_copy_keeps_everything_and_says_why_when_and_by_whom() {
    let first = delivered(publication::to_exchange(&message(), &upstream(), Publish::FIRST));
    let read = arrival::read(&first).expect("reads");
    let sent = delivered(arrival::retry_copy(&first, &read, "inventory.orders".into(), 1, Some(tried(250, "busy"))));
    let dead = arrival::dead_copy(&sent, "inventory.orders.dead".into(), death());
    assert_eq!((&dead.body, &dead.properties.message_id), (&sent.body, &sent.properties.message_id));
    let letter = dead_letter::read(&delivered(dead));
    assert_eq!((letter.exchange.as_str(), letter.routing_key.as_str()), ("orders", "order.created"));
    assert_eq!(
        (letter.reason.as_str(), letter.detail.as_str(), letter.died_by.as_str()),
        ("rejected", "status 422", "downstream")
    );
    assert_eq!((letter.died_at, letter.retries, letter.attempt), (Some(Timestamp::from_millis(9)), 1, Attempt::FIRST));
    assert_eq!(letter.headers.get("tenant").map(String::as_str), Some("eu"));
    assert_eq!(letter.history.entries, [tried(250, "busy")]);
    assert!(letter.headers.contains_key(names::TRACEPARENT), "its trace can be looked up");
}

#[test]
fn a_redriven_letter_is_the_first_try_of_a_new_epoch_and_remembers_its_death() {
    let first = delivered(publication::to_exchange(&message(), &upstream(), Publish::FIRST));
    let read = arrival::read(&first).expect("reads");
    let retried = delivered(arrival::retry_copy(&first, &read, "inventory.orders".into(), 1, Some(tried(250, "busy"))));
    let dead = delivered(arrival::dead_copy(&retried, "inventory.orders.dead".into(), death()));
    let order = dead_letter::Redrive { epoch: 3, effect_epoch: 0, by: "ann", reason: "mended", at: Timestamp::from_millis(20) };
    let again = dead_letter::redriven_copy(&dead, "inventory.orders".into(), order);
    assert_eq!((again.exchange.as_str(), again.routing_key.as_str()), ("", "inventory.orders"));
    assert!(!again.properties.headers.keys().any(|name| name.starts_with("countersign-dead")), "{again:?}");
    let arrived = arrival::read(&delivered(again.clone())).expect("reads");
    assert_eq!((arrived.attempt, arrived.retries), (Attempt { epoch: 3, number: 1 }, 0));
    assert_eq!((arrived.exchange.as_str(), arrived.routing_key.as_str()), ("orders", "order.created"));
    assert_eq!((arrived.fingerprint, arrived.body, arrived.headers), (read.fingerprint, read.body, read.headers));
    let history = History::of(&again.properties);
    let said: Vec<_> = history.entries.iter().map(|entry| (&entry.what, entry.detail.as_str(), entry.attempt.epoch)).collect();
    let (died, redriven) = (What::died(FailReason::Rejected, "downstream"), What::Redriven { by: "ann".into() });
    assert_eq!(said, [(&What::retried(250), "busy", 0), (&died, "status 422", 0), (&redriven, "mended", 3)]);
}

#[test]
fn what_the_broker_dead_lettered_by_itself_says_where_it_had_been_published() {
    let mut left = delivered(publication::to_exchange(&message(), &upstream(), Publish::FIRST));
    (left.exchange, left.routing_key) = (String::new(), "audit.dead".into());
    for (name, value) in [("reason", "delivery_limit"), ("exchange", "orders"), ("routing-key", "order.created")] {
        left.properties.headers.insert(format!("x-first-death-{name}"), HeaderValue::Text(value.into()));
    }
    let letter = dead_letter::read(&left);
    assert_eq!((letter.reason.as_str(), letter.died_at), ("dead_lettered", None));
    assert_eq!((letter.exchange.as_str(), letter.routing_key.as_str()), ("orders", "order.created"));
    let order = dead_letter::Redrive { epoch: 1, effect_epoch: 0, by: "ann", reason: "", at: Timestamp::from_millis(20) };
    let again = dead_letter::redriven_copy(&left, "audit".into(), order);
    assert!(!again.properties.headers.keys().any(|name| name.starts_with("x-")), "{again:?}");
    let arrived = arrival::read(&delivered(again)).expect("reads");
    assert_eq!((arrived.exchange.as_str(), arrived.routing_key.as_str()), ("orders", "order.created"));
}

#[test]
fn what_is_no_message_at_all_can_be_shown() {
    let nothing = Publication {
        exchange: String::new(),
        routing_key: "countersign.quarantine".into(),
        properties: Properties::default(),
        body: Bytes::from_static(b"litter"),
    };
    let letter = dead_letter::read(&delivered(nothing));
    assert_eq!((letter.message_id.as_str(), letter.reason.as_str(), letter.body_bytes), ("", "", 6));
    assert_eq!(letter.attempt, Attempt::FIRST);
}

#[test]
fn a_probe_goes_through_its_lane_and_names_itself() {
    let topology = Topology::from_toml(
        r#"
        [[exchange]]
        name = "orders"
        kind = "topic"
        [[subscription]]
        name = "a"
        retry_delays_ms = [1000]
        bind = [{ exchange = "orders", routing_key = "order.#" }]
        "#,
    )
    .expect("sound");
    let lane = |retry_delay_ms| Lane { subscription: subscription("a"), retry_delay_ms };
    let straight = probes::publication(&lane(None), 7, &topology).expect("known");
    let delayed = probes::publication(&lane(Some(1_000)), 8, &topology).expect("known");
    assert_eq!((straight.routing_key.as_str(), delayed.routing_key.as_str()), ("a", "a.retry.1000"));
    assert_eq!(
        (probes::read(&straight.properties), probes::read(&delayed.properties)),
        (Some((7, None)), Some((8, Some(1_000))))
    );
    assert!(probes::publication(&lane(Some(5)), 9, &topology).is_none());
    assert!(probes::read(&publication::to_exchange(&message(), &upstream(), Publish::FIRST).properties).is_none());
}
