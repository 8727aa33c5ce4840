//! A message as downstream receives it: read back from properties and headers.

use std::collections::BTreeMap;

use countersign_delivery::message::EFFECT_EPOCH_MAX;
use countersign_delivery::ports::broker::{Delivered, HeaderValue, Properties, Publication};
use countersign_delivery::{Attempt, FailReason, Fingerprint, MessageId, Timestamp, TraceContext, UpstreamName};
use prost::bytes::Bytes;

use crate::error::WireError;
use crate::history::{Entry, History};
use crate::names;

/// What a handler is given, and what a receipt has to echo.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrival {
    /// The message's id.
    pub id: MessageId,
    /// Who sent it.
    pub upstream: UpstreamName,
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
    /// Which try.
    pub attempt: Attempt,
    /// The epoch in which an operator allowed the effect that this is about; 0: the first effect.
    pub effect_epoch: u32,
    /// Whether it may have been published before.
    pub republished: bool,
    /// When it was accepted, by upstream's clock.
    pub sent_at: Timestamp,
    /// The exchange it was meant for.
    pub exchange: String,
    /// The routing key it was meant for.
    pub routing_key: String,
    /// Its business type.
    pub kind: String,
    /// Media type of the body.
    pub content_type: String,
    /// The caller's own headers, those that are text.
    pub headers: BTreeMap<String, String>,
    /// How many retry tiers it has been through.
    pub retries: u32,
    /// Its trace.
    pub trace: Option<TraceContext>,
    /// The body.
    pub body: Bytes,
}

/// Reads a delivery of a work queue.
///
/// # Errors
/// [`WireError`]: it is not a message of ours, or of an unknown version.
pub fn read(delivered: &Delivered) -> Result<Arrival, WireError> {
    let properties = &delivered.properties;
    let version = int(properties, names::WIRE).ok_or(WireError::Missing("header countersign-wire"))?;
    if version != i64::from(names::VERSION) {
        return Err(WireError::UnknownVersion(version));
    }
    let id = properties.message_id.as_deref().ok_or(WireError::Missing("property message_id"))?;
    let upstream = properties.app_id.as_deref().ok_or(WireError::Missing("property app_id"))?;
    let fingerprint = text(properties, names::FINGERPRINT).ok_or(WireError::Missing("header countersign-fingerprint"))?;
    Ok(Arrival {
        id: MessageId::parse(id)?,
        upstream: UpstreamName::new(upstream)?,
        fingerprint: Fingerprint::from_hex(fingerprint)?,
        attempt: Attempt { epoch: count(properties, names::EPOCH, 0)?, number: count(properties, names::ATTEMPT, 1)? },
        effect_epoch: effect_epoch(properties)?,
        republished: matches!(properties.headers.get(names::REPUBLISHED), Some(HeaderValue::Bool(true))),
        sent_at: Timestamp::from_millis(int(properties, names::SENT_AT).ok_or(WireError::Missing("header countersign-sent-at"))?),
        exchange: text(properties, names::EXCHANGE).unwrap_or(&delivered.exchange).to_owned(),
        routing_key: text(properties, names::ROUTING_KEY).unwrap_or(&delivered.routing_key).to_owned(),
        kind: properties.kind.clone().unwrap_or_default(),
        content_type: properties.content_type.clone().unwrap_or_else(|| "application/octet-stream".into()),
        headers: own_headers(properties),
        retries: count(properties, names::RETRY, 0)?,
        trace: trace(properties),
        body: delivered.body.clone(),
    })
}

/// Why, when and by whose word a message is dead-lettered.
#[derive(Clone, Copy, Debug)]
pub struct Death<'a> {
    /// The class of the failure.
    pub reason: FailReason,
    /// For a human.
    pub detail: &'a str,
    /// When.
    pub at: Timestamp,
    /// Which downstream, or callback.
    pub by: &'a str,
}

/// The same message for a retry tier: through the default exchange, one retry more, the broker's death history stripped. `tried` is what
/// its history gets; none when no try was made.
#[must_use]
pub fn retry_copy(delivered: &Delivered, arrival: &Arrival, queue: String, retries: u32, tried: Option<Entry>) -> Publication {
    let mut publication = copy(delivered, queue);
    let headers = &mut publication.properties.headers;
    headers.insert(names::EXCHANGE.into(), HeaderValue::Text(arrival.exchange.clone()));
    headers.insert(names::ROUTING_KEY.into(), HeaderValue::Text(arrival.routing_key.clone()));
    headers.insert(names::RETRY.into(), HeaderValue::Int(i64::from(retries)));
    if let Some(tried) = tried {
        let history = History::of(&delivered.properties).and(tried);
        headers.insert(names::HISTORY.into(), history.into_header());
    }
    publication
}

/// A delivery on its way to a dead-letter or quarantine queue, with the reason and its history so far; works for what cannot be read, too.
#[must_use]
pub fn dead_copy(delivered: &Delivered, queue: String, death: Death<'_>) -> Publication {
    let mut publication = copy(delivered, queue);
    let headers = &mut publication.properties.headers;
    headers.entry(names::EXCHANGE.into()).or_insert_with(|| HeaderValue::Text(delivered.exchange.clone()));
    headers.entry(names::ROUTING_KEY.into()).or_insert_with(|| HeaderValue::Text(delivered.routing_key.clone()));
    headers.insert(names::DEAD_REASON.into(), HeaderValue::Text(death.reason.as_str().into()));
    headers.insert(names::DEAD_DETAIL.into(), HeaderValue::Text(death.detail.into()));
    headers.insert(names::DEAD_AT.into(), HeaderValue::Int(death.at.as_millis()));
    headers.insert(names::DEAD_BY.into(), HeaderValue::Text(death.by.into()));
    publication
}

pub(crate) fn copy(delivered: &Delivered, queue: String) -> Publication {
    let mut properties = delivered.properties.clone();
    properties.headers.retain(|name, _| !is_brokers(name));
    // Whoever published it may have meant its first queue; in a dead-letter queue it would end there and be lost.
    properties.expiration_ms = None;
    Publication { exchange: String::new(), routing_key: queue, properties, body: delivered.body.clone() }
}

pub(crate) fn is_brokers(name: &str) -> bool {
    name.starts_with("x-death")
        || name.starts_with("x-first-death")
        || name.starts_with("x-last-death")
        || name == "x-delivery-count"
}

pub(crate) fn own_headers(properties: &Properties) -> BTreeMap<String, String> {
    let ours = |name: &str| {
        name.starts_with(names::PREFIX) || name == names::TRACEPARENT || name == names::TRACESTATE || is_brokers(name)
    };
    let texts = properties.headers.iter().filter(|(name, _)| !ours(name));
    texts.filter_map(|(name, value)| Some((name.clone(), value.as_text()?.to_owned()))).collect()
}

/// Unlike a try, which is only told on, it decides whether there is an effect: what cannot be read is not guessed.
fn effect_epoch(properties: &Properties) -> Result<u32, WireError> {
    let Some(value) = properties.headers.get(names::EFFECT_EPOCH) else { return Ok(0) };
    let epoch = value.as_int().and_then(|value| u32::try_from(value).ok()).filter(|epoch| *epoch <= EFFECT_EPOCH_MAX);
    epoch.ok_or(WireError::OutOfRange("header countersign-effect-epoch"))
}

fn trace(properties: &Properties) -> Option<TraceContext> {
    let traceparent = text(properties, names::TRACEPARENT)?.to_owned();
    Some(TraceContext { traceparent, tracestate: text(properties, names::TRACESTATE).map(str::to_owned) })
}

pub(crate) fn text<'a>(properties: &'a Properties, name: &str) -> Option<&'a str> {
    properties.headers.get(name).and_then(HeaderValue::as_text)
}

pub(crate) fn int(properties: &Properties, name: &str) -> Option<i64> {
    properties.headers.get(name).and_then(HeaderValue::as_int)
}

pub(crate) fn count(properties: &Properties, name: &'static str, default: u32) -> Result<u32, WireError> {
    int(properties, name).map_or(Ok(default), |value| u32::try_from(value).map_err(|_| WireError::OutOfRange(name)))
}
