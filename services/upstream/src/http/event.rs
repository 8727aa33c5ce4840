//! A `CloudEvent` as a message. Pure.
//!
//! | the event's | is the message's |
//! |---|---|
//! | `type` | type, and routing key unless `routingkey` or `?routing_key=` names another |
//! | `exchange`, `routingkey` | exchange and routing key; they come before `?exchange=` and `?routing_key=` |
//! | `source` and `id`, joined by a space | idempotency key, unless the request has an `Idempotency-Key` |
//! | `id`, `source`, `time` | headers `eventid`, `eventsource`, `eventtime` |
//! | `traceparent`, `tracestate` | trace |
//! | `subject`, `dataschema` and every other extension | headers of the same names |
//! | data, `datacontenttype` | body, content type |
//!
//! A producer makes `source` and `id` together unique, and a URI has no space, so the key is as good as one of its own.

pub(super) mod binary;
pub(super) mod structured;

use std::collections::BTreeMap;

use bytes::Bytes;
use countersign_delivery::IdempotencyKey;

use crate::accept::NewMessage;
use crate::http::head::Target;
use crate::refusal::Refusal;
use crate::trace::trace_of;

/// Headers that upstream itself makes of the event's identity.
const OURS: [&str; 3] = ["eventid", "eventsource", "eventtime"];
/// Most attributes of one event; their bytes are bounded by what headers may have.
const MAX_ATTRIBUTES: usize = 256;
/// Most characters of a value that a refusal repeats.
const MAX_SHOWN: usize = 80;

/// How an event came: what its attributes are called there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One header per attribute.
    Binary,
    /// One JSON member per attribute.
    Structured,
}

/// An event as it was read; nothing of it is judged but the form.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) form: Form,
    /// Attributes by name, without `datacontenttype`.
    pub(super) attributes: BTreeMap<String, String>,
    /// Empty when it says none.
    pub(super) content_type: String,
    pub(super) body: Bytes,
}

impl Form {
    fn place(self, name: &str) -> String {
        match self {
            Self::Binary => format!("header ce-{name}"),
            Self::Structured => format!("member {name:?}"),
        }
    }

    /// The name of an attribute is lower-case letters and digits.
    fn named(self, name: &str) -> Result<(), Refusal> {
        if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
            return Ok(());
        }
        let why =
            format!("{} is not allowed: names of attributes have lower-case letters and digits only", self.shown_place(name));
        Err(Refusal::Invalid(why))
    }

    fn shown_place(self, name: &str) -> String {
        self.place(&shown(name))
    }
}

impl Event {
    /// The message it means. `key` is the request's own idempotency key.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] that names the attribute and says how to set it.
    pub(super) fn into_message(mut self, target: &Target, key: Option<String>) -> Result<NewMessage, Refusal> {
        self.check_texts()?;
        self.required("specversion", "1.0, the only version that is read", |text| text == "1.0")?;
        let id = self.required("id", "a text that is unique within its source", |text| !text.is_empty())?;
        let source = self.required("source", "a URI reference without spaces, such as /shop/orders or urn:shop", is_uri)?;
        let kind = self.required("type", "the business type, such as order.created", |text| !text.is_empty())?;
        let time = self.optional("time", "a time such as 2026-01-31T12:00:00Z (RFC 3339)", is_time)?;
        for name in ["subject", "dataschema"] {
            if self.attributes.get(name).is_some_and(String::is_empty) {
                return Err(Refusal::Invalid(format!("{} is empty: leave it out", self.form.place(name))));
            }
        }
        let exchange = self.attributes.remove("exchange").or_else(|| target.exchange.clone()).unwrap_or_default();
        let routing_key = self.attributes.remove("routingkey").or_else(|| target.routing_key.clone());
        let trace = self.attributes.remove("traceparent").and_then(|traceparent| {
            let tracestate = self.attributes.get("tracestate").map(String::as_str).unwrap_or_default();
            trace_of(&traceparent, tracestate)
        });
        self.attributes.remove("tracestate");
        if let Some(name) = OURS.iter().find(|name| self.attributes.contains_key(**name)) {
            let why = format!("{} is not allowed: upstream makes it of id, source and time; rename it", self.form.place(name));
            return Err(Refusal::Invalid(why));
        }
        let key_is_implied = key.is_none();
        let idempotency_key = key.map_or_else(|| key_of(&source, &id), Ok)?;
        let mut headers = self.attributes;
        headers.extend([("eventid".to_owned(), id), ("eventsource".to_owned(), source)]);
        headers.extend(time.map(|time| ("eventtime".to_owned(), time)));
        Ok(NewMessage {
            exchange,
            routing_key: routing_key.unwrap_or_else(|| kind.clone()),
            kind,
            content_type: self.content_type,
            body: self.body,
            headers,
            idempotency_key,
            key_is_implied,
            fingerprint: Bytes::new(),
            trace,
            ..NewMessage::default()
        })
    }

    fn check_texts(&self) -> Result<(), Refusal> {
        if self.attributes.len() > MAX_ATTRIBUTES {
            let why = format!("the event has {} attributes; at most {MAX_ATTRIBUTES} are accepted", self.attributes.len());
            return Err(Refusal::Invalid(why));
        }
        match self.attributes.iter().find(|(_, value)| value.chars().any(char::is_control)) {
            Some((name, _)) => {
                Err(Refusal::Invalid(format!("{} has a control character: no attribute may", self.form.shown_place(name))))
            }
            None => Ok(()),
        }
    }

    fn required(&mut self, name: &str, hint: &str, fits: impl Fn(&str) -> bool) -> Result<String, Refusal> {
        let value = self.optional(name, hint, fits)?;
        value.ok_or_else(|| Refusal::Invalid(format!("{} is missing: set it to {hint}", self.form.place(name))))
    }

    fn optional(&mut self, name: &str, hint: &str, fits: impl Fn(&str) -> bool) -> Result<Option<String>, Refusal> {
        match self.attributes.remove(name) {
            Some(value) if !fits(&value) => {
                let why = format!("{} is {:?}: set it to {hint}", self.form.place(name), shown(&value));
                Err(Refusal::Invalid(why))
            }
            value => Ok(value),
        }
    }
}

/// The beginning of a text, for people.
fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN).collect()
}

/// The key that source and id make, if nobody gave one.
fn key_of(source: &str, id: &str) -> Result<String, Refusal> {
    let key = format!("{source} {id}");
    if key.len() <= IdempotencyKey::MAX_BYTES {
        return Ok(key);
    }
    let why = format!(
        "source and id, joined by a space, have {} bytes; as the idempotency key they may have {}: shorten them, or send the event alone \
         with a header Idempotency-Key",
        key.len(),
        IdempotencyKey::MAX_BYTES
    );
    Err(Refusal::Invalid(why))
}

/// Whether a text has nothing but what a URI may have (RFC 3986): no space above all.
fn is_uri(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&byte);
    !text.is_empty() && text.bytes().all(allowed)
}

fn is_time(text: &str) -> bool {
    text.parse::<jiff::Timestamp>().is_ok()
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
