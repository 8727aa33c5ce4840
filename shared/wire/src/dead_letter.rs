//! What lies in a dead-letter or quarantine queue: read for a human, and turned into a message for the work queue again.

pub mod packed;

use std::collections::BTreeMap;

use countersign_delivery::ports::broker::{Delivered, HeaderValue, Publication};
use countersign_delivery::{Attempt, FailReason, Timestamp};

use crate::arrival::{copy, count, int, is_brokers, text};
use crate::history::{Entry, History, What};
use crate::names;

/// What the broker says of what it dead-lettered by itself.
const BROKERS_REASON: &str = "x-first-death-reason";
const BROKERS_EXCHANGE: &str = "x-first-death-exchange";
const BROKERS_ROUTING_KEY: &str = "x-first-death-routing-key";

/// A dead letter as far as it can be read; nothing of it need be valid.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// AMQP `message_id`; may be empty.
    pub message_id: String,
    /// AMQP `app_id`: who sent it; may be empty.
    pub upstream: String,
    /// AMQP `type`; may be empty.
    pub kind: String,
    /// AMQP `content_type`; may be empty.
    pub content_type: String,
    /// Its fingerprint, hexadecimal; may be empty.
    pub fingerprint: String,
    /// The try that died; what cannot be read is that of a first send.
    pub attempt: Attempt,
    /// How many retry tiers it has been through in its last epoch.
    pub retries: u32,
    /// When upstream accepted it.
    pub sent_at: Option<Timestamp>,
    /// The exchange it was meant for.
    pub exchange: String,
    /// The routing key it was meant for.
    pub routing_key: String,
    /// Every header that is neither ours nor the broker's, as text.
    pub headers: BTreeMap<String, String>,
    /// Why it died: a word of [`FailReason`], or what somebody else wrote there.
    pub reason: String,
    /// For a human; may be empty.
    pub detail: String,
    /// When it died; none for what the broker put there by itself.
    pub died_at: Option<Timestamp>,
    /// Which downstream wrote it down; may be empty.
    pub died_by: String,
    /// What happened to it before.
    pub history: History,
    /// Size of its body, bytes.
    pub body_bytes: usize,
}

/// Reads a delivery of a dead-letter or quarantine queue.
#[must_use]
pub fn read(delivered: &Delivered) -> DeadLetter {
    let properties = &delivered.properties;
    let header = |name: &str| text(properties, name).unwrap_or_default().to_owned();
    let theirs = |ours: &str, brokers: &str, last: &str| {
        text(properties, ours).or_else(|| text(properties, brokers)).unwrap_or(last).to_owned()
    };
    let by_broker = text(properties, BROKERS_REASON);
    let detail = match (text(properties, names::DEAD_DETAIL), by_broker) {
        (Some(detail), _) => detail.to_owned(),
        (None, Some(reason)) => format!("the broker gave up on it: {reason}"),
        (None, None) => String::new(),
    };
    let fallback = if by_broker.is_some() { FailReason::DeadLettered.as_str() } else { "" };
    DeadLetter {
        message_id: properties.message_id.clone().unwrap_or_default(),
        upstream: properties.app_id.clone().unwrap_or_default(),
        kind: properties.kind.clone().unwrap_or_default(),
        content_type: properties.content_type.clone().unwrap_or_default(),
        fingerprint: header(names::FINGERPRINT),
        attempt: Attempt {
            epoch: count(properties, names::EPOCH, 0).unwrap_or(0),
            number: count(properties, names::ATTEMPT, 1).unwrap_or(1),
        },
        retries: count(properties, names::RETRY, 0).unwrap_or(0),
        sent_at: int(properties, names::SENT_AT).map(Timestamp::from_millis),
        exchange: theirs(names::EXCHANGE, BROKERS_EXCHANGE, &delivered.exchange),
        routing_key: theirs(names::ROUTING_KEY, BROKERS_ROUTING_KEY, &delivered.routing_key),
        headers: properties
            .headers
            .iter()
            .filter(|(name, _)| !name.starts_with(names::PREFIX) && !is_brokers(name))
            .map(|(name, value)| (name.clone(), in_words(value)))
            .collect(),
        reason: text(properties, names::DEAD_REASON).unwrap_or(fallback).to_owned(),
        detail,
        died_at: int(properties, names::DEAD_AT).map(Timestamp::from_millis),
        died_by: header(names::DEAD_BY),
        history: History::of(properties),
        body_bytes: delivered.body.len(),
    }
}

/// An operator's order to send a dead letter to the work queue again.
#[derive(Clone, Copy, Debug)]
pub struct Redrive<'a> {
    /// The epoch it gets; larger than any that it has been through.
    pub epoch: u32,
    /// The further effect it is for; 0: none.
    pub effect_epoch: u32,
    /// Who ordered it.
    pub by: &'a str,
    /// Why, for a human.
    pub reason: &'a str,
    /// When.
    pub at: Timestamp,
}

/// The message once more for its work queue: the first try of a new epoch, with no retry behind it. Its death moves into its history.
#[must_use]
pub fn redriven_copy(delivered: &Delivered, queue: String, redrive: Redrive<'_>) -> Publication {
    let dead = read(delivered);
    let mut publication = copy(delivered, queue);
    let headers = &mut publication.properties.headers;
    for name in [names::DEAD_REASON, names::DEAD_DETAIL, names::DEAD_AT, names::DEAD_BY, names::RETRY] {
        headers.remove(name);
    }
    let known = |name: &str| text(&delivered.properties, name).is_some();
    // What the broker put here by itself says only now where it had been published.
    if known(BROKERS_EXCHANGE) {
        headers.entry(names::EXCHANGE.into()).or_insert(HeaderValue::Text(dead.exchange));
    }
    if known(BROKERS_ROUTING_KEY) {
        headers.entry(names::ROUTING_KEY.into()).or_insert(HeaderValue::Text(dead.routing_key));
    }
    let died = Entry {
        at: dead.died_at.unwrap_or(redrive.at),
        attempt: dead.attempt,
        what: What::Died { reason: dead.reason, by: dead.died_by },
        detail: dead.detail,
    };
    let attempt = Attempt { epoch: redrive.epoch, number: 1 };
    let what = What::Redriven { by: redrive.by.to_owned() };
    let history = dead.history.and(died).and(Entry { at: redrive.at, attempt, what, detail: redrive.reason.to_owned() });
    headers.insert(names::HISTORY.into(), history.into_header());
    headers.insert(names::EPOCH.into(), HeaderValue::Int(i64::from(attempt.epoch)));
    headers.insert(names::ATTEMPT.into(), HeaderValue::Int(i64::from(attempt.number)));
    if redrive.effect_epoch > 0 {
        headers.insert(names::EFFECT_EPOCH.into(), HeaderValue::Int(i64::from(redrive.effect_epoch)));
    }
    publication
}

fn in_words(value: &HeaderValue) -> String {
    match value {
        HeaderValue::Text(text) => text.clone(),
        HeaderValue::Int(number) => number.to_string(),
        HeaderValue::Bool(truth) => truth.to_string(),
        HeaderValue::Double(number) => number.to_string(),
        HeaderValue::Bytes(bytes) => format!("{} bytes", bytes.len()),
    }
}
