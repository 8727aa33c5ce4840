//! A message's properties as HTTP headers.

use countersign_telemetry::propagate;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use crate::handler::{Event, HandlerContext};

/// Attributes by which a message is identified and read: no header of a caller may pass for one.
const ATTRIBUTES: [&str; 7] = ["id", "source", "type", "specversion", "time", "datacontenttype", "data"];
/// Attributes that describe what is in the body, which is the caller's to say; `CloudEvents` does not allow them to be empty.
const CONTENT: [&str; 2] = ["subject", "dataschema"];
/// Longest name of an extension.
const EXTENSION_MAX: usize = 20;

/// All headers of one delivery.
pub(super) fn of(message: &Event, context: &HandlerContext) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(20 + message.headers.len());
    for (name, value) in &message.headers {
        set(&mut headers, &name_of(name, value), value);
    }
    let id = message.id.to_string();
    let texts = [
        ("ce-specversion", "1.0"),
        ("ce-id", &id),
        ("ce-source", message.upstream.as_str()),
        ("ce-type", &message.kind),
        ("ce-time", &rfc_3339(message.sent_at.as_millis())),
        ("idempotency-key", &context.idempotency_key),
        ("countersign-subscription", context.subscription.as_str()),
        ("countersign-attempt", &message.attempt.number.to_string()),
        ("countersign-epoch", &message.attempt.epoch.to_string()),
        ("countersign-fingerprint", &message.fingerprint.to_hex()),
        ("countersign-exchange", &message.exchange),
        ("countersign-routing-key", &message.routing_key),
    ];
    for (name, value) in texts {
        set(&mut headers, name, value);
    }
    // A media type is not percent-encoded; one that cannot be sent is replaced by what promises nothing.
    let content_type = HeaderValue::from_str(&message.content_type);
    headers.insert(CONTENT_TYPE, content_type.unwrap_or(HeaderValue::from_static("application/octet-stream")));
    let received = message.trace.as_ref().map(|trace| (trace.traceparent.clone(), trace.tracestate.clone()));
    if let Some((traceparent, tracestate)) = propagate::current().or(received) {
        set(&mut headers, "traceparent", &traceparent);
        if let Some(tracestate) = tracestate {
            set(&mut headers, "tracestate", &tracestate);
        }
    }
    headers
}

/// Where a header of the caller's goes.
fn name_of(name: &str, value: &str) -> String {
    let legal = (1..=EXTENSION_MAX).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if legal && !ATTRIBUTES.contains(&name) && !(CONTENT.contains(&name) && value.is_empty()) {
        format!("ce-{name}")
    } else {
        format!("countersign-header-{}", encoded(name, |byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)))
    }
}

fn set(headers: &mut HeaderMap, name: &str, value: &str) {
    // Printable ASCII without space, `"` and `%`, as the HTTP binding of CloudEvents has it; then both always parse.
    let value = encoded(value, |byte| (0x21..=0x7e).contains(&byte) && byte != b'"' && byte != b'%');
    if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(&value)) {
        headers.insert(name, value);
    }
}

fn encoded(text: &str, plain: impl Fn(u8) -> bool) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if plain(byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

/// A time as RFC 3339 has it; the epoch for what no calendar holds.
fn rfc_3339(millis: i64) -> String {
    jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_delivery::{Attempt, Timestamp};
    use countersign_testkit::build::{a_message, subscription, upstream};

    const HEADERS: [(&str, &str); 6] = [
        ("tenant", "Zürich \"1\""),
        ("host", "x"),
        ("id", "forged"),
        ("X-Mode", "100%"),
        ("subject", "order 17"),
        ("dataschema", "urn:schema:order"),
    ];

    fn an_event() -> Event {
        let message = a_message();
        Event {
            id: message.id,
            upstream: upstream("shop"),
            fingerprint: message.fingerprint,
            attempt: Attempt::FIRST,
            effect_epoch: 0,
            republished: false,
            sent_at: Timestamp::from_millis(1_700_000_000_123),
            exchange: message.exchange,
            routing_key: message.routing_key,
            kind: message.kind,
            content_type: message.content_type,
            headers: HEADERS.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            retries: 0,
            trace: None,
            body: message.body,
        }
    }

    #[test]
    fn a_message_travels_as_a_cloud_event() {
        let event = an_event();
        let context = HandlerContext {
            subscription: subscription("inventory"),
            idempotency_key: event.id.to_string(),
            starts: 1,
            crashes: 0,
            timeout_ms: 1,
        };
        let headers = of(&event, &context);
        let id = event.id.to_string();
        let expected = [
            ("ce-id", id.as_str()),
            ("idempotency-key", &id),
            ("ce-source", "shop"),
            ("ce-type", "order.created"),
            ("ce-specversion", "1.0"),
            ("ce-time", "2023-11-14T22:13:20.123Z"),
            ("content-type", "application/json"),
            ("ce-tenant", "Z%C3%BCrich%20%221%22"),
            ("ce-host", "x"),
            ("ce-subject", "order%2017"),
            ("ce-dataschema", "urn:schema:order"),
            ("countersign-header-id", "forged"),
            ("countersign-header-x-mode", "100%25"),
            ("countersign-subscription", "inventory"),
        ];
        for (name, value) in expected {
            assert_eq!(headers.get(name).and_then(|got| got.to_str().ok()), Some(value), "{name}");
        }
        assert!(headers.get("host").is_none());
    }

    #[test]
    fn what_identifies_a_message_is_never_the_callers_and_what_describes_it_is() {
        let rows = [
            ("subject", "a", "ce-subject"),
            ("dataschema", "a", "ce-dataschema"),
            ("subject", "", "countersign-header-subject"),
            ("eventid", "a", "ce-eventid"),
            ("tenant", "", "ce-tenant"),
            ("averylongnameofaheader", "a", "countersign-header-averylongnameofaheader"),
            ("a b", "a", "countersign-header-a%20b"),
        ];
        let identity = ATTRIBUTES.map(|name| (name, "a", format!("countersign-header-{name}")));
        let rows = rows.map(|(name, value, expected)| (name, value, expected.to_owned()));
        for (name, value, expected) in rows.into_iter().chain(identity) {
            assert_eq!(name_of(name, value), expected);
        }
    }
}
