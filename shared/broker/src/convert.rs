//! AMQP properties and headers, to and from the protocol's own.

use std::collections::BTreeMap;

use countersign_delivery::ports::broker::{Delivered, Handle, HeaderValue, Properties};
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};

/// AMQP 0-9-1: survives a restart of the broker.
const PERSISTENT: u8 = 2;
/// Left behind by dead-lettering; carried along by a republish they make the broker see a cycle and drop the message.
fn is_trace_of_death(header: &str) -> bool {
    header == "x-death" || header.starts_with("x-first-death-") || header.starts_with("x-last-death-")
}

/// The broker's table of deaths, the latest first; and what is read from it as a header of its own, since the broker tells exchange, queue and
/// reason of a first death that way, but not the routing key.
const DEATHS: &str = "x-death";
const FIRST_ROUTING_KEY: &str = "x-first-death-routing-key";

/// A text of at most 255 bytes, or why it is not.
pub(crate) fn short(what: &str, text: &str) -> Result<ShortString, String> {
    ShortString::try_new(text).map_err(|_| format!("the {what} has {} bytes; AMQP allows 255", text.len()))
}

/// What is published: persistent, without traces of earlier dead-lettering.
pub(crate) fn to_amqp(properties: &Properties) -> Result<BasicProperties, String> {
    let mut amqp = BasicProperties::default().with_delivery_mode(PERSISTENT);
    if let Some(id) = &properties.message_id {
        amqp = amqp.with_message_id(short("message id", id)?);
    }
    if let Some(app) = &properties.app_id {
        amqp = amqp.with_app_id(short("application id", app)?);
    }
    if let Some(kind) = &properties.kind {
        amqp = amqp.with_type(short("type", kind)?);
    }
    if let Some(content_type) = &properties.content_type {
        amqp = amqp.with_content_type(short("content type", content_type)?);
    }
    if let Some(timestamp) = properties.timestamp {
        amqp = amqp.with_timestamp(timestamp);
    }
    if let Some(expiration_ms) = properties.expiration_ms {
        amqp = amqp.with_expiration(short("expiration", &expiration_ms.to_string())?);
    }
    let mut table = BTreeMap::new();
    for (name, value) in &properties.headers {
        if !is_trace_of_death(name) {
            table.insert(short("name of a header", name)?, header_to_amqp(value));
        }
    }
    Ok(if table.is_empty() { amqp } else { amqp.with_headers(FieldTable::from(table)) })
}

fn header_to_amqp(value: &HeaderValue) -> AMQPValue {
    match value {
        HeaderValue::Text(text) => AMQPValue::LongString(LongString::from(text.as_str())),
        HeaderValue::Int(number) => AMQPValue::LongLongInt(*number),
        HeaderValue::Bool(truth) => AMQPValue::Boolean(*truth),
        HeaderValue::Double(number) => AMQPValue::Double(*number),
        HeaderValue::Bytes(bytes) => AMQPValue::LongString(LongString::from(bytes.clone())),
    }
}

/// What is consumed. Nested tables, arrays, decimals and nothings are left out, but for the routing key of a first death.
pub(crate) fn from_amqp(amqp: &BasicProperties) -> Properties {
    let text = |value: &Option<ShortString>| value.as_ref().map(|text| text.as_str().to_owned());
    let table = amqp.headers().as_ref().map(FieldTable::inner);
    let headers = table.into_iter().flatten();
    let mut headers: BTreeMap<_, _> =
        headers.filter_map(|(name, value)| Some((name.as_str().to_owned(), header_from_amqp(value)?))).collect();
    if let Some(key) = table.and_then(|table| first_routing_key(table.get(DEATHS)?)) {
        headers.entry(FIRST_ROUTING_KEY.into()).or_insert(HeaderValue::Text(key));
    }
    Properties {
        message_id: text(amqp.message_id()),
        app_id: text(amqp.app_id()),
        kind: text(amqp.kind()),
        content_type: text(amqp.content_type()),
        timestamp: *amqp.timestamp(),
        expiration_ms: amqp.expiration().as_ref().and_then(|text| text.as_str().parse().ok()),
        headers,
    }
}

/// With what a message had been published that has died for the first time.
fn first_routing_key(deaths: &AMQPValue) -> Option<String> {
    let AMQPValue::FieldArray(deaths) = deaths else { return None };
    let AMQPValue::FieldTable(first) = deaths.as_slice().last()? else { return None };
    let AMQPValue::FieldArray(keys) = first.inner().get("routing-keys")? else { return None };
    match header_from_amqp(keys.as_slice().first()?)? {
        HeaderValue::Text(key) => Some(key),
        _ => None,
    }
}

fn header_from_amqp(value: &AMQPValue) -> Option<HeaderValue> {
    Some(match value {
        AMQPValue::Boolean(truth) => HeaderValue::Bool(*truth),
        AMQPValue::ShortShortInt(number) => HeaderValue::Int(i64::from(*number)),
        AMQPValue::ShortShortUInt(number) => HeaderValue::Int(i64::from(*number)),
        AMQPValue::ShortInt(number) => HeaderValue::Int(i64::from(*number)),
        AMQPValue::ShortUInt(number) => HeaderValue::Int(i64::from(*number)),
        AMQPValue::LongInt(number) => HeaderValue::Int(i64::from(*number)),
        AMQPValue::LongUInt(number) => HeaderValue::Int(i64::from(*number)),
        AMQPValue::LongLongInt(number) => HeaderValue::Int(*number),
        AMQPValue::Timestamp(number) => HeaderValue::Int(i64::try_from(*number).ok()?),
        AMQPValue::Float(number) => HeaderValue::Double(f64::from(*number)),
        AMQPValue::Double(number) => HeaderValue::Double(*number),
        AMQPValue::ShortString(text) => HeaderValue::Text(text.as_str().to_owned()),
        AMQPValue::LongString(text) => text_or_bytes(text.as_bytes()),
        AMQPValue::ByteArray(bytes) => HeaderValue::Bytes(bytes.as_slice().to_vec()),
        AMQPValue::DecimalValue(_) | AMQPValue::FieldArray(_) | AMQPValue::FieldTable(_) | AMQPValue::Void => return None,
    })
}

fn text_or_bytes(bytes: &[u8]) -> HeaderValue {
    match std::str::from_utf8(bytes) {
        Ok(text) => HeaderValue::Text(text.to_owned()),
        Err(_) => HeaderValue::Bytes(bytes.to_vec()),
    }
}

/// A delivery as its consumer sees it.
pub(crate) fn delivered(delivery: Delivery, generation: u64) -> Delivered {
    Delivered {
        handle: Handle { generation, tag: delivery.delivery_tag },
        exchange: delivery.exchange.as_str().to_owned(),
        routing_key: delivery.routing_key.as_str().to_owned(),
        redelivered: delivery.redelivered,
        properties: from_amqp(&delivery.properties),
        body: delivery.data.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::types::FieldArray;

    #[test]
    fn properties_survive_the_round_trip() {
        let headers = BTreeMap::from([
            ("text".to_owned(), HeaderValue::Text("grüß".into())),
            ("int".to_owned(), HeaderValue::Int(i64::MIN)),
            ("bool".to_owned(), HeaderValue::Bool(true)),
            ("double".to_owned(), HeaderValue::Double(0.5)),
            ("bytes".to_owned(), HeaderValue::Bytes(vec![0xff, 0xfe])),
        ]);
        let properties = Properties {
            message_id: Some("id".into()),
            app_id: Some("app".into()),
            kind: Some("order.created".into()),
            content_type: Some("application/json".into()),
            timestamp: Some(7),
            expiration_ms: Some(1_500),
            headers,
        };
        let amqp = to_amqp(&properties).unwrap();
        assert_eq!(*amqp.delivery_mode(), Some(PERSISTENT));
        assert_eq!(amqp.expiration().as_ref().map(ShortString::as_str), Some("1500"));
        assert_eq!(from_amqp(&amqp), properties);
    }

    #[test]
    fn foreign_values_are_read_by_meaning() {
        let rows = [
            (AMQPValue::ShortShortInt(-1), Some(HeaderValue::Int(-1))),
            (AMQPValue::ShortShortUInt(255), Some(HeaderValue::Int(255))),
            (AMQPValue::ShortInt(-2), Some(HeaderValue::Int(-2))),
            (AMQPValue::ShortUInt(2), Some(HeaderValue::Int(2))),
            (AMQPValue::LongInt(-3), Some(HeaderValue::Int(-3))),
            (AMQPValue::LongUInt(3), Some(HeaderValue::Int(3))),
            (AMQPValue::Timestamp(4), Some(HeaderValue::Int(4))),
            (AMQPValue::Float(0.25), Some(HeaderValue::Double(0.25))),
            (AMQPValue::ByteArray(vec![1].into()), Some(HeaderValue::Bytes(vec![1]))),
            (AMQPValue::Void, None),
            (AMQPValue::FieldTable(FieldTable::default()), None),
        ];
        for (value, expected) in rows {
            assert_eq!(header_from_amqp(&value), expected, "{value:?}");
        }
    }

    #[test]
    fn traces_of_dead_lettering_are_not_published_again() {
        let mut properties = Properties::default();
        for name in ["x-death", "x-first-death-queue", "x-last-death-reason"] {
            properties.headers.insert(name.into(), HeaderValue::Text("q".into()));
        }
        properties.headers.insert("x-own".into(), HeaderValue::Int(1));
        let kept = from_amqp(&to_amqp(&properties).unwrap()).headers;
        assert_eq!(kept.keys().collect::<Vec<_>>(), ["x-own"]);
    }

    #[test]
    fn the_routing_key_of_the_first_death_is_read_from_the_table_of_deaths() {
        let death = |key: &str| {
            let keys = FieldArray::from(vec![AMQPValue::LongString(key.into())]);
            let table = BTreeMap::from([(ShortString::from("routing-keys"), AMQPValue::FieldArray(keys))]);
            AMQPValue::FieldTable(FieldTable::from(table))
        };
        let deaths = AMQPValue::FieldArray(FieldArray::from(vec![death("work"), death("order.created")]));
        let amqp =
            BasicProperties::default().with_headers(FieldTable::from(BTreeMap::from([(ShortString::from(DEATHS), deaths)])));
        let read = from_amqp(&amqp);
        assert_eq!(read.headers, BTreeMap::from([(FIRST_ROUTING_KEY.to_owned(), HeaderValue::Text("order.created".into()))]));
        assert_eq!(to_amqp(&read).unwrap().headers(), &None, "it is not published again");
    }

    #[test]
    fn what_is_too_long_for_amqp_is_named() {
        let properties = Properties { message_id: Some("x".repeat(256)), ..Properties::default() };
        assert!(to_amqp(&properties).unwrap_err().contains("message id"));
    }
}
