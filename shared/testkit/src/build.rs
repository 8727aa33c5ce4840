//! Plain values to begin with: `Message { kind: "x".into(), ..a_message() }` says what a test is about and nothing else.

use std::collections::BTreeMap;

use bytes::Bytes;
use countersign_delivery::check::Check;
use countersign_delivery::policy::Policy;
use countersign_delivery::ports::broker::{Properties, Publication};
use countersign_delivery::routing::ExchangeKind;
use countersign_delivery::state::Facts;
use countersign_delivery::topology::{Binding, CheckTiers, Exchange, Guard, Mode, Subscription};
use countersign_delivery::{
    Attempt, Fingerprint, IncarnationId, Message, MessageId, Outcome, Position, Receipt, Seq, SubscriptionName, Timestamp,
    Topology, UpstreamName,
};
use uuid::Uuid;

/// Where a manual clock begins.
pub const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// The exchange of [`a_topology`].
pub const EXCHANGE: &str = "countersign.messages";

/// The UUIDv7 that stands for a number; in the numbers' order.
#[must_use]
pub fn uuid(n: u64) -> Uuid {
    const VERSION_AND_VARIANT: u128 = (7 << 76) | (2 << 62);
    let n = u128::from(n) & 0xffff_ffff_ffff;
    Uuid::from_u128((n << 80) | VERSION_AND_VARIANT | n)
}

/// The message id that stands for a number.
///
/// # Panics
/// Never: [`uuid()`] makes version 7.
#[must_use]
pub fn message_id(n: u64) -> MessageId {
    MessageId::new(uuid(n)).expect("uuid() makes version 7")
}

/// The incarnation that stands for a number.
#[must_use]
pub fn incarnation(n: u64) -> IncarnationId {
    IncarnationId(uuid(n))
}

/// A place in an incarnation's order.
#[must_use]
pub fn position(of: u64, seq: u64) -> Position {
    Position { incarnation: incarnation(of), seq: Seq(seq) }
}

/// A subscription's name.
///
/// # Panics
/// When it is no valid name.
#[must_use]
pub fn subscription(name: &str) -> SubscriptionName {
    SubscriptionName::new(name).expect("a test names subscriptions validly")
}

/// An upstream's name.
///
/// # Panics
/// When it is no valid name.
#[must_use]
pub fn upstream(name: &str) -> UpstreamName {
    UpstreamName::new(name).expect("a test names upstreams validly")
}

/// Message 1: an order for `inventory`, of [`a_topology`].
#[must_use]
pub fn a_message() -> Message {
    a_message_with(1, r#"{"order":1}"#)
}

/// A message by number and body, with the body's own fingerprint.
#[must_use]
pub fn a_message_with(n: u64, body: &str) -> Message {
    let (kind, content_type) = ("order.created", "application/json");
    Message {
        id: message_id(n),
        fingerprint: Fingerprint::of(kind, content_type, body.as_bytes()),
        idempotency_key: None,
        required: vec![subscription("inventory")],
        exchange: EXCHANGE.into(),
        routing_key: "order.created".into(),
        kind: kind.into(),
        content_type: content_type.into(),
        headers: BTreeMap::new(),
        body: Bytes::copy_from_slice(body.as_bytes()),
        sent_at: NOW,
        trace: None,
        mode: Mode::Verified,
    }
}

/// What identifies a message in MSG DB; its upstream is `shop`.
#[must_use]
pub fn facts_of(message: &Message) -> Facts {
    Facts { upstream: upstream("shop"), fingerprint: message.fingerprint.clone(), sent_at: message.sent_at }
}

/// `inventory`'s receipt for [`a_message`], first attempt.
#[must_use]
pub fn a_receipt(outcome: Outcome) -> Receipt {
    a_receipt_of(&a_message(), &subscription("inventory"), outcome)
}

/// A receipt for a message's first attempt.
#[must_use]
pub fn a_receipt_of(message: &Message, subscription: &SubscriptionName, outcome: Outcome) -> Receipt {
    Receipt {
        message_id: message.id,
        subscription: subscription.clone(),
        upstream: upstream("shop"),
        fingerprint: message.fingerprint.clone(),
        attempt: Attempt::FIRST,
        sent_at: message.sent_at,
        outcome,
        trace: None,
    }
}

/// The check of [`a_message`]'s first attempt, never looked at.
#[must_use]
pub fn a_check() -> Check {
    a_check_of(&a_message())
}

/// The check of a message's first attempt, never looked at.
#[must_use]
pub fn a_check_of(message: &Message) -> Check {
    Check {
        message_id: message.id,
        fingerprint: message.fingerprint.clone(),
        attempt: Attempt::FIRST,
        waits: 0,
        sent_at: message.sent_at,
        required: message.required.clone(),
        marks: Vec::new(),
        trace: None,
    }
}

/// One topic exchange; `inventory` takes `order.*`, `audit` takes everything; checks after 2 s, then after 1 s and 5 s;
/// retries after 100 ms and 1 s.
#[must_use]
pub fn a_topology() -> Topology {
    Topology {
        checks: CheckTiers { check_delay_ms: 2_000, recheck_delays_ms: vec![1_000, 5_000] },
        subscriptions: vec![a_subscription("inventory", "order.*"), a_subscription("audit", "#")],
        ..Topology::default()
    }
}

/// A subscription of [`a_topology`]'s exchange by one pattern.
#[must_use]
pub fn a_subscription(name: &str, pattern: &str) -> Subscription {
    let binding = Binding { exchange: EXCHANGE.into(), routing_key: pattern.into(), arguments: BTreeMap::new() };
    Subscription {
        name: subscription(name),
        bindings: vec![binding],
        retry_delays_ms: vec![100, 1_000],
        probes: true,
        guard: Guard::default(),
        max_length: None,
    }
}

/// A durable exchange.
#[must_use]
pub fn an_exchange(name: &str, kind: ExchangeKind) -> Exchange {
    Exchange { name: name.into(), kind, durable: true, auto_delete: false, internal: false, alternate: None }
}

/// The default figures.
#[must_use]
pub fn a_policy() -> Policy {
    Policy::default()
}

/// Something to publish straight into a queue, by the default exchange.
#[must_use]
pub fn a_publication(message_id: &str, queue: &str) -> Publication {
    Publication {
        exchange: String::new(),
        routing_key: queue.into(),
        properties: Properties { message_id: Some(message_id.into()), ..Properties::default() },
        body: Bytes::copy_from_slice(message_id.as_bytes()),
    }
}
