//! Whatever comes, the parser answers; and what an event says is what the message has.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::collection::{btree_map, vec};
use proptest::prelude::{Strategy, any, prop_assert_eq, proptest};
use serde_json::Value;

use super::{binary, structured};
use crate::accept::NewMessage;
use crate::http::head::Target;
use crate::refusal::Refusal;

fn read_binary(pairs: &[(String, Vec<u8>)], body: Vec<u8>) -> Result<NewMessage, Refusal> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    binary::read(&headers, body.into())?.into_message(&Target::default(), None)
}

fn a_text() -> impl Strategy<Value = String> {
    "[^\\p{Cc}]{1,40}"
}

/// Extensions that are not read as anything else.
fn extensions() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map("x[a-z0-9]{1,12}", a_text(), 0..6)
}

proptest! {
    #[test]
    fn no_headers_and_no_body_make_it_panic(
        pairs in vec(("(ce-)?[a-z0-9-]{0,12}|ce-(id|source|type|time|specversion|traceparent)", vec(any::<u8>(), 0..40)), 0..12),
        body in vec(any::<u8>(), 0..60),
    ) {
        let _ = read_binary(&pairs, body);
    }

    #[test]
    fn no_bytes_make_it_panic(json in vec(any::<u8>(), 0..200)) {
        let _ = structured::read(&json).and_then(|event| event.into_message(&Target::default(), None));
        let _ = structured::split(&json);
    }

    #[test]
    fn no_near_miss_makes_it_panic(
        json in "\\[?\\{(\"(id|source|type|data|data_base64|specversion)\":(\"[^\"]{0,6}\"|[0-9.eE+-]{1,6}|null|\\{\\}|\\[),?){0,6}\\}?\\]?",
    ) {
        let _ = structured::read(json.as_bytes()).and_then(|event| event.into_message(&Target::default(), None));
        let _ = structured::split(json.as_bytes());
    }

    #[test]
    fn both_modes_say_the_same(
        id in a_text(),
        kind in a_text(),
        source in "[a-z:/?#._~-]{1,30}",
        extensions in extensions(),
        data in any::<i64>().prop_map(|number| number.to_string()),
    ) {
        let attributes = [("specversion", "1.0"), ("id", &id), ("source", &source), ("type", &kind)];
        let attributes: BTreeMap<String, String> = attributes
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .chain(extensions.clone())
            .collect();
        let encoded = |(name, value): (&String, &String)| {
            (format!("ce-{name}"), utf8_percent_encode(value, NON_ALPHANUMERIC).to_string().into_bytes())
        };
        let mut pairs: Vec<_> = attributes.iter().map(encoded).collect();
        pairs.push(("content-type".into(), b"application/json".to_vec()));
        let mut object: serde_json::Map<String, Value> =
            attributes.iter().map(|(name, value)| (name.clone(), Value::from(value.clone()))).collect();
        object.insert("data".into(), serde_json::from_str(&data).unwrap());

        let binary = read_binary(&pairs, data.clone().into_bytes()).unwrap();
        let structured = structured::read(Value::Object(object).to_string().as_bytes()).unwrap();
        prop_assert_eq!(&structured.into_message(&Target::default(), None).unwrap(), &binary);
        prop_assert_eq!(&binary.headers["eventid"], &id);
        prop_assert_eq!((&binary.kind, &binary.routing_key), (&kind, &kind));
        for (name, value) in extensions {
            prop_assert_eq!(&binary.headers[&name], &value);
        }
    }
}
