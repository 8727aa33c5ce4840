//! What a caller means, judged: a message with everything it needs, or the reason why not. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use countersign_delivery::topology::Mode;
use countersign_delivery::{Fingerprint, IdempotencyKey, Message, MessageId, Timestamp, Topology, TraceContext};
use countersign_wire::names;

use crate::refusal::Refusal;

/// Longest exchange, routing key, type, content type and header name, bytes: what AMQP can carry.
const MAX_NAME_BYTES: usize = 255;
/// Most bytes of all headers together: they travel in one frame, and the smallest usual frame has 128 KiB.
const MAX_HEADERS_BYTES: usize = 64 * 1024;
/// Headers that change where the broker sends a message: who must sign would no longer be known.
const ROUTING_HEADERS: [&str; 2] = ["CC", "BCC"];

/// A message as its caller means it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewMessage {
    /// The exchange; empty: the configured default.
    pub exchange: String,
    /// How the exchange routes it.
    pub routing_key: String,
    /// The business type, such as `order.created`; required.
    pub kind: String,
    /// Media type of the body; empty: `application/octet-stream`.
    pub content_type: String,
    /// 1 byte to `max_body_bytes`.
    pub body: Bytes,
    /// The caller's own headers; names must not begin with `countersign-`.
    pub headers: BTreeMap<String, String>,
    /// The caller's own key for this event; empty: none.
    pub idempotency_key: String,
    /// Nobody gave the key, it was made of what the event says of itself. Where nothing remembers a key, in mode `confirmed`, such a one is
    /// left out; the caller's own is refused.
    pub key_is_implied: bool,
    /// The caller's own fingerprint, up to 64 bytes; empty: a hash of type, content type and body.
    pub fingerprint: Bytes,
    /// The trace it belongs to; none: that of the current span.
    pub trace: Option<TraceContext>,
    /// When its sender is answered.
    pub answer_when: AnswerWhen,
}

/// When the sender of an accepted message is answered; a promise either way. In mode `confirmed` always after the broker's confirm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AnswerWhen {
    /// When the broker has confirmed message and check, or else `confirm_wait_ms` after the commit.
    #[default]
    Confirmed,
    /// As soon as it is committed. Nothing slows the sender down while the broker is behind, up to `max_unconfirmed`.
    Committed,
}

impl NewMessage {
    /// Its size as the limit of a batch counts it: body, headers and names.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        let names = self.exchange.len() + self.routing_key.len() + self.kind.len() + self.content_type.len();
        self.body.len() + headers + names + self.idempotency_key.len() + self.fingerprint.len()
    }
}

/// What is the same for every message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules<'a> {
    pub topology: &'a Topology,
    pub default_exchange: &'a str,
    pub max_body_bytes: usize,
}

/// The message under a fresh id, with its fingerprint and its required subscriptions.
pub(crate) fn accept(new: NewMessage, rules: Rules<'_>, id: MessageId, now: Timestamp) -> Result<Message, Refusal> {
    let exchange = if new.exchange.is_empty() { rules.default_exchange.to_owned() } else { new.exchange };
    let content_type = if new.content_type.is_empty() { "application/octet-stream".to_owned() } else { new.content_type };
    if new.kind.is_empty() {
        return Err(Refusal::Invalid("type is empty: name the business type, such as order.created".into()));
    }
    let names =
        [("exchange", &exchange), ("routing_key", &new.routing_key), ("type", &new.kind), ("content_type", &content_type)];
    for (what, text) in names {
        short(what, text)?;
    }
    body_fits(new.body.len(), rules.max_body_bytes)?;
    headers_fit(&new.headers)?;
    let mode = rules.topology.route(&exchange, &new.routing_key).mode;
    let has_key = has_key(&new.idempotency_key, new.key_is_implied, mode)?;
    let idempotency_key = has_key.then(|| IdempotencyKey::new(&new.idempotency_key)).transpose();
    let fingerprint = if new.fingerprint.is_empty() {
        Ok(Fingerprint::of(&new.kind, &content_type, &new.body))
    } else {
        Fingerprint::new(new.fingerprint.to_vec())
    };
    let invalid = |error: countersign_delivery::id::InvalidId| Refusal::Invalid(error.to_string());
    let required = required(rules.topology, &exchange, &new.routing_key, &new.headers)?;
    Ok(Message {
        id,
        fingerprint: fingerprint.map_err(invalid)?,
        idempotency_key: idempotency_key.map_err(invalid)?,
        required,
        exchange,
        routing_key: new.routing_key,
        kind: new.kind,
        content_type,
        headers: new.headers,
        body: new.body,
        sent_at: now,
        trace: new.trace,
        mode,
    })
}

/// Whether the message goes under its key.
fn has_key(key: &str, is_implied: bool, mode: Mode) -> Result<bool, Refusal> {
    match (mode, key.is_empty() || is_implied) {
        (Mode::Verified | Mode::Outbox, _) => Ok(!key.is_empty()),
        (Mode::Confirmed, true) => Ok(false),
        (Mode::Confirmed, false) => Err(Refusal::Invalid(
            "the route of this message has mode confirmed, which stores nothing that could remember an idempotency key: leave the key out, or \
             give the route mode outbox or verified"
                .into(),
        )),
    }
}

fn required(
    topology: &Topology,
    exchange: &str,
    routing_key: &str,
    headers: &BTreeMap<String, String>,
) -> Result<Vec<countersign_delivery::SubscriptionName>, Refusal> {
    if topology.exchange(exchange).is_some_and(|exchange| exchange.internal) {
        let why = format!("exchange {exchange:?} is internal: the broker lets nobody publish to it; name one that feeds it");
        return Err(Refusal::Invalid(why));
    }
    let required = topology.required(exchange, routing_key, headers);
    if required.is_empty() {
        return Err(Refusal::NoSubscription { exchange: exchange.to_owned(), routing_key: routing_key.to_owned() });
    }
    Ok(required)
}

fn short(what: &str, text: &str) -> Result<(), Refusal> {
    if text.len() <= MAX_NAME_BYTES {
        return Ok(());
    }
    Err(Refusal::Invalid(format!("{what} has {} bytes; at most {MAX_NAME_BYTES} are accepted", text.len())))
}

fn body_fits(bytes: usize, max: usize) -> Result<(), Refusal> {
    match bytes {
        0 => Err(Refusal::Invalid("body is empty; 1 byte is the least".into())),
        _ if bytes > max => {
            let why = format!("body has {bytes} bytes; at most {max} are accepted (max_body_bytes): send a reference to it");
            Err(Refusal::TooLarge(why))
        }
        _ => Ok(()),
    }
}

fn headers_fit(headers: &BTreeMap<String, String>) -> Result<(), Refusal> {
    for name in headers.keys() {
        short("the name of a header", name)?;
        let ours = name.starts_with(names::PREFIX) || name == names::TRACEPARENT || name == names::TRACESTATE;
        if name.is_empty() || ours || ROUTING_HEADERS.contains(&name.as_str()) {
            let why = format!(
                "header name {name:?} is not allowed: it is empty, ours (countersign-…, traceparent, tracestate), or routes (CC, BCC)"
            );
            return Err(Refusal::Invalid(why));
        }
    }
    let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_HEADERS_BYTES {
        return Err(Refusal::Invalid(format!("the headers have {bytes} bytes; at most {MAX_HEADERS_BYTES} are accepted")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use countersign_testkit::build::{NOW, a_topology, message_id};

    use super::*;

    fn an_order() -> NewMessage {
        NewMessage {
            routing_key: "order.created".into(),
            kind: "order.created".into(),
            body: Bytes::from_static(b"{}"),
            ..NewMessage::default()
        }
    }

    fn judged(new: NewMessage) -> Result<Message, Refusal> {
        let topology = a_topology();
        let rules = Rules { topology: &topology, default_exchange: "countersign.messages", max_body_bytes: 8 };
        accept(new, rules, message_id(1), NOW)
    }

    #[test]
    fn a_sparse_message_is_completed() {
        let message = judged(an_order()).unwrap();
        assert_eq!(message.exchange, "countersign.messages");
        assert_eq!(message.content_type, "application/octet-stream");
        assert_eq!(message.fingerprint, Fingerprint::of("order.created", "application/octet-stream", b"{}"));
        let required: Vec<_> = message.required.iter().map(countersign_delivery::SubscriptionName::as_str).collect();
        assert_eq!(required, ["audit", "inventory"]);
    }

    #[test]
    fn a_body_that_is_too_large_is_refused_with_both_sizes() {
        let refused = judged(NewMessage { body: vec![0; 9].into(), ..an_order() }).unwrap_err().to_string();
        assert!(refused.contains("9 bytes") && refused.contains("at most 8"), "{refused}");
    }

    #[test]
    fn what_cannot_travel_is_refused_by_name() {
        let with_header = |name: &str| NewMessage { headers: [(name.to_owned(), "x".to_owned())].into(), ..an_order() };
        let rows = [
            (NewMessage { kind: String::new(), ..an_order() }, "type"),
            (NewMessage { body: Bytes::new(), ..an_order() }, "body"),
            (NewMessage { routing_key: "k".repeat(256), ..an_order() }, "routing_key"),
            (NewMessage { idempotency_key: "k".repeat(256), ..an_order() }, "idempotency key"),
            (NewMessage { fingerprint: vec![1; 65].into(), ..an_order() }, "fingerprint"),
            (with_header("countersign-attempt"), "countersign-attempt"),
            (with_header("traceparent"), "traceparent"),
            (with_header("CC"), "CC"),
            (NewMessage { headers: [("x".to_owned(), "y".repeat(70_000))].into(), ..an_order() }, "headers"),
        ];
        for (new, word) in rows {
            let refusal = judged(new).unwrap_err();
            assert!(matches!(&refusal, Refusal::Invalid(why) if why.contains(word)), "{word}: {refusal}");
        }
    }

    #[test]
    fn a_message_that_nobody_gets_names_exchange_and_key() {
        let refusal = judged(NewMessage { exchange: "elsewhere".into(), ..an_order() }).unwrap_err();
        let expected = Refusal::NoSubscription { exchange: "elsewhere".into(), routing_key: "order.created".into() };
        assert_eq!(refusal, expected);
    }

    #[test]
    fn what_falls_to_an_alternate_exchange_is_accepted_only_if_that_one_has_somebody() {
        let text = "
            [[exchange]]
            name = 'countersign.messages'
            kind = 'topic'
            alternate = 'rest'
            [[exchange]]
            name = 'rest'
            kind = 'direct'
            internal = true
            alternate = 'countersign.messages'
            [[subscription]]
            name = 'inventory'
            bind = [{ exchange = 'countersign.messages', routing_key = 'order.*' }]
            [[subscription]]
            name = 'leftovers'
            bind = [{ exchange = 'rest', routing_key = 'stock.moved' }]";
        let topology = Topology::from_toml(text).unwrap();
        let rules = Rules { topology: &topology, default_exchange: "countersign.messages", max_body_bytes: 8 };
        let with_key = |key: &str| accept(NewMessage { routing_key: key.into(), ..an_order() }, rules, message_id(1), NOW);
        for (key, expected) in [("order.created", "inventory"), ("stock.moved", "leftovers")] {
            let message = with_key(key).unwrap();
            let required: Vec<_> = message.required.iter().map(countersign_delivery::SubscriptionName::as_str).collect();
            assert_eq!((message.exchange.as_str(), required), ("countersign.messages", vec![expected]), "{key}");
        }
        let nobody = Refusal::NoSubscription { exchange: "countersign.messages".into(), routing_key: "stock.lost".into() };
        assert_eq!(with_key("stock.lost").unwrap_err(), nobody);
        let direct = NewMessage { exchange: "rest".into(), routing_key: "stock.moved".into(), ..an_order() };
        let refused = accept(direct, rules, message_id(1), NOW).unwrap_err().to_string();
        assert!(refused.contains("internal"), "{refused}");
    }
}
