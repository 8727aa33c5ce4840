//! A dead letter as it is kept: all of a copy but its body in one text, and what tells one copy from another.
//!
//! **Invariant:** packing loses nothing but how often the broker has delivered the copy, which it notes on each delivery anew.

use std::collections::BTreeMap;

use countersign_delivery::Fingerprint;
use countersign_delivery::ports::broker::{Delivered, Handle, HeaderValue, Properties};
use prost::bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::WireError;

/// Counted by the broker as it delivers.
const DELIVERY_COUNT: &str = "x-delivery-count";

/// The text's form, JSON.
#[derive(Serialize, Deserialize)]
struct Packed {
    exchange: String,
    routing_key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    app_id: Option<String>,
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timestamp: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expiration_ms: Option<u64>,
    headers: BTreeMap<String, Value>,
}

/// A header's value. JSON has no word for some floating-point numbers, so they are texts.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Value {
    Text(String),
    Int(i64),
    Bool(bool),
    Double(String),
    Bytes(Vec<u8>),
}

/// All of a copy but its body.
#[must_use]
pub fn pack(delivered: &Delivered) -> String {
    let Properties { message_id, app_id, kind, content_type, timestamp, expiration_ms, headers } = delivered.properties.clone();
    let headers = headers.into_iter().filter(|(name, _)| name != DELIVERY_COUNT);
    let packed = Packed {
        exchange: delivered.exchange.clone(),
        routing_key: delivered.routing_key.clone(),
        message_id,
        app_id,
        kind,
        content_type,
        timestamp,
        expiration_ms,
        headers: headers.map(|(name, value)| (name, value.into())).collect(),
    };
    // Texts, numbers and maps by text only: this cannot fail.
    serde_json::to_string(&packed).unwrap_or_default()
}

/// The reverse of [`pack`]: the copy as it was delivered, with a handle that settles nothing.
///
/// # Errors
/// [`WireError::Malformed`] when [`pack`] has not made this text.
pub fn unpack(text: &str, body: Bytes) -> Result<Delivered, WireError> {
    let packed: Packed = serde_json::from_str(text).map_err(|error| WireError::Malformed(error.to_string()))?;
    let headers = packed.headers.into_iter().map(|(name, value)| Ok((name, value.try_into()?)));
    Ok(Delivered {
        handle: Handle { generation: 0, tag: 0 },
        exchange: packed.exchange,
        routing_key: packed.routing_key,
        redelivered: false,
        properties: Properties {
            message_id: packed.message_id,
            app_id: packed.app_id,
            kind: packed.kind,
            content_type: packed.content_type,
            timestamp: packed.timestamp,
            expiration_ms: packed.expiration_ms,
            headers: headers.collect::<Result<_, WireError>>()?,
        },
        body,
    })
}

/// Equal for two deliveries of one copy from this queue; two copies that are equal to the last bit count as one.
#[must_use]
pub fn identity(queue: &str, packed: &str, body: &[u8]) -> Fingerprint {
    Fingerprint::of(queue, packed, body)
}

impl From<HeaderValue> for Value {
    fn from(value: HeaderValue) -> Self {
        match value {
            HeaderValue::Text(text) => Self::Text(text),
            HeaderValue::Int(number) => Self::Int(number),
            HeaderValue::Bool(truth) => Self::Bool(truth),
            HeaderValue::Double(number) => Self::Double(number.to_string()),
            HeaderValue::Bytes(bytes) => Self::Bytes(bytes),
        }
    }
}

impl TryFrom<Value> for HeaderValue {
    type Error = WireError;

    fn try_from(value: Value) -> Result<Self, WireError> {
        Ok(match value {
            Value::Text(text) => Self::Text(text),
            Value::Int(number) => Self::Int(number),
            Value::Bool(truth) => Self::Bool(truth),
            Value::Double(text) => Self::Double(text.parse().map_err(|_| WireError::OutOfRange("a header's number"))?),
            Value::Bytes(bytes) => Self::Bytes(bytes),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy() -> Delivered {
        let headers = [
            ("text", HeaderValue::Text("a\u{0}\n\"ä".into())),
            ("int", HeaderValue::Int(i64::MIN)),
            ("bool", HeaderValue::Bool(true)),
            ("double", HeaderValue::Double(0.1 + 0.2)),
            ("endless", HeaderValue::Double(f64::NEG_INFINITY)),
            ("bytes", HeaderValue::Bytes(vec![0, 255])),
        ];
        Delivered {
            handle: Handle { generation: 0, tag: 0 },
            exchange: "orders".into(),
            routing_key: "order.created".into(),
            redelivered: false,
            properties: Properties {
                message_id: Some("no uuid".into()),
                timestamp: Some(u64::MAX),
                expiration_ms: Some(0),
                headers: headers.map(|(name, value)| (name.to_owned(), value)).into(),
                ..Properties::default()
            },
            body: Bytes::from_static(b"body"),
        }
    }

    #[test]
    fn what_is_packed_comes_back() {
        let empty = Delivered { properties: Properties::default(), body: Bytes::new(), ..copy() };
        for delivered in [copy(), empty] {
            assert_eq!(unpack(&pack(&delivered), delivered.body.clone()).unwrap(), delivered);
        }
        assert!(unpack("{}", Bytes::new()).is_err() && unpack("", Bytes::new()).is_err());
    }

    #[test]
    fn a_copy_is_the_same_however_often_it_is_delivered() {
        let identity = |delivered: &Delivered| identity("inventory.dead", &pack(delivered), &delivered.body);
        let mut again = copy();
        again.properties.headers.insert(DELIVERY_COUNT.into(), HeaderValue::Int(3));
        let again = Delivered { handle: Handle { generation: 2, tag: 9 }, redelivered: true, ..again };
        assert_eq!(identity(&again), identity(&copy()));
        let mut other = copy();
        other.properties.headers.insert("int".into(), HeaderValue::Int(1));
        let longer = Delivered { body: Bytes::from_static(b"body "), ..copy() };
        let keyed = Delivered { routing_key: "order.paid".into(), ..copy() };
        for different in [&other, &longer, &keyed] {
            assert_ne!(identity(different), identity(&copy()));
        }
    }
}
