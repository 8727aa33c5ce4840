//! A message as it is published: body untouched, the rest in properties and headers.

use std::collections::BTreeMap;

use countersign_delivery::ports::broker::{HeaderValue, Properties, Publication};
use countersign_delivery::{Attempt, Message, SubscriptionName, UpstreamName};
use prost::bytes::Bytes;

use crate::names;

/// Which publish of a message this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish {
    /// The try.
    pub attempt: Attempt,
    /// The epoch in which an operator allowed a further effect; 0: never.
    pub effect_epoch: u32,
    /// Whether the message may have been published before (adoption, catching up, resend).
    pub again: bool,
}

impl Publish {
    /// The first publish of a message that was stored a moment ago.
    pub const FIRST: Self = Self { attempt: Attempt::FIRST, effect_epoch: 0, again: false };
    /// The same once more: it may have been published before.
    pub const AGAIN: Self = Self { again: true, ..Self::FIRST };
}

/// The message to its own exchange, for everyone who is bound.
#[must_use]
pub fn to_exchange(message: &Message, upstream: &UpstreamName, publish: Publish) -> Publication {
    Publication {
        exchange: message.exchange.clone(),
        routing_key: message.routing_key.clone(),
        properties: properties(message, upstream, publish),
        body: message.body.clone(),
    }
}

/// The message to one subscription's work queue alone; headers say where it was meant for.
#[must_use]
pub fn to_subscription(
    message: &Message,
    upstream: &UpstreamName,
    subscription: &SubscriptionName,
    publish: Publish,
) -> Publication {
    let mut properties = properties(message, upstream, publish);
    properties.headers.insert(names::EXCHANGE.into(), HeaderValue::Text(message.exchange.clone()));
    properties.headers.insert(names::ROUTING_KEY.into(), HeaderValue::Text(message.routing_key.clone()));
    Publication { exchange: String::new(), routing_key: subscription.to_string(), properties, body: message.body.clone() }
}

/// A batch of ours (receipts, checks) straight to a queue. `message_id` is unique among the publications in flight.
#[must_use]
pub fn to_queue(queue: String, message_id: String, body: Bytes) -> Publication {
    let headers = BTreeMap::from([(names::WIRE.to_owned(), HeaderValue::Int(i64::from(names::VERSION)))]);
    let properties =
        Properties { message_id: Some(message_id), content_type: Some(names::PROTOBUF.into()), headers, ..Properties::default() };
    Publication { exchange: String::new(), routing_key: queue, properties, body }
}

fn properties(message: &Message, upstream: &UpstreamName, publish: Publish) -> Properties {
    let number = |value: u32| HeaderValue::Int(i64::from(value));
    let mut headers: BTreeMap<String, HeaderValue> =
        message.headers.iter().map(|(name, value)| (name.clone(), HeaderValue::Text(value.clone()))).collect();
    headers.insert(names::WIRE.into(), number(names::VERSION));
    headers.insert(names::FINGERPRINT.into(), HeaderValue::Text(message.fingerprint.to_hex()));
    headers.insert(names::ATTEMPT.into(), number(publish.attempt.number));
    headers.insert(names::EPOCH.into(), number(publish.attempt.epoch));
    headers.insert(names::SENT_AT.into(), HeaderValue::Int(message.sent_at.as_millis()));
    if publish.effect_epoch > 0 {
        headers.insert(names::EFFECT_EPOCH.into(), number(publish.effect_epoch));
    }
    if publish.again {
        headers.insert(names::REPUBLISHED.into(), HeaderValue::Bool(true));
    }
    if let Some(trace) = &message.trace {
        headers.insert(names::TRACEPARENT.into(), HeaderValue::Text(trace.traceparent.clone()));
        if let Some(state) = &trace.tracestate {
            headers.insert(names::TRACESTATE.into(), HeaderValue::Text(state.clone()));
        }
    }
    Properties {
        message_id: Some(message.id.to_string()),
        app_id: Some(upstream.to_string()),
        kind: Some(message.kind.clone()),
        content_type: Some(message.content_type.clone()),
        timestamp: u64::try_from(message.sent_at.as_millis() / 1000).ok(),
        expiration_ms: None,
        headers,
    }
}
