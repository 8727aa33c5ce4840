use axum::http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::*;
use crate::accept::AnswerWhen;

/// Headers, or changes of them.
type Pairs<'a> = &'a [(&'a str, &'a str)];

const TARGET: Target = Target { exchange: None, routing_key: None };

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    headers
}

const ORDER: [(&str, &str); 5] = [
    ("ce-specversion", "1.0"),
    ("ce-id", "A-17"),
    ("ce-source", "/shop"),
    ("ce-type", "order.created"),
    ("content-type", "application/json"),
];

/// The order, with some headers otherwise; an empty value leaves one out.
fn binary_with(changes: &[(&str, &str)]) -> Result<NewMessage, Refusal> {
    let kept = ORDER.iter().filter(|(name, _)| !changes.iter().any(|(changed, _)| changed == name));
    let pairs: Vec<_> = kept.chain(changes.iter().filter(|(_, value)| !value.is_empty())).copied().collect();
    binary::read(&headers(&pairs), Bytes::from_static(b"{\"order\": 17}"))?.into_message(&TARGET, None)
}

fn structured_text(json: &str) -> Result<NewMessage, Refusal> {
    structured::read(json.as_bytes())?.into_message(&TARGET, None)
}

/// The order, with some members otherwise; null leaves one out.
fn structured_with(changes: &Value) -> Result<NewMessage, Refusal> {
    let mut event =
        json!({"specversion": "1.0", "id": "A-17", "source": "/shop", "type": "order.created", "data": {"order": 17}});
    event.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    structured_text(&event.to_string())
}

#[test]
fn an_event_is_the_same_message_in_either_mode() {
    let binary = binary_with(&[]).unwrap();
    let expected = NewMessage {
        exchange: String::new(),
        routing_key: "order.created".into(),
        kind: "order.created".into(),
        content_type: "application/json".into(),
        body: Bytes::from_static(b"{\"order\": 17}"),
        headers: [("eventid".to_owned(), "A-17".to_owned()), ("eventsource".to_owned(), "/shop".to_owned())].into(),
        idempotency_key: "/shop A-17".into(),
        key_is_implied: true,
        fingerprint: Bytes::new(),
        trace: None,
        answer_when: AnswerWhen::Confirmed,
    };
    assert_eq!(binary, expected);
    let json = r#" {"data": {"order": 17}, "type":"order.created","source":"/shop","specversion":"1.0","id":"A-17"}"#;
    assert_eq!(structured_text(json), Ok(expected));
}

#[test]
fn attributes_become_headers_route_and_trace() {
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let message = binary_with(&[
        ("CE-Subject", "42"),
        ("ce-dataschema", "urn:schema"),
        ("ce-tenant", "Z%C3%BCrich%20%221%22"),
        ("ce-note", "\"100%25 \\\"sure\\\"\""),
        ("ce-time", "2026-01-31T12:00:00.5+01:00"),
        ("ce-exchange", "orders"),
        ("ce-routingkey", "order.created.eu"),
        ("ce-traceparent", parent),
        ("ce-tracestate", "a=1"),
        ("x-other", "not an attribute"),
    ])
    .unwrap();
    let expected = [
        ("dataschema", "urn:schema"),
        ("eventid", "A-17"),
        ("eventsource", "/shop"),
        ("eventtime", "2026-01-31T12:00:00.5+01:00"),
        ("note", "100% \"sure\""),
        ("subject", "42"),
        ("tenant", "Zürich \"1\""),
    ];
    assert_eq!(message.headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    assert_eq!((message.exchange.as_str(), message.routing_key.as_str()), ("orders", "order.created.eu"));
    let trace = message.trace.unwrap();
    assert_eq!((trace.traceparent.as_str(), trace.tracestate.as_deref()), (parent, Some("a=1")));
}

#[test]
fn the_request_says_where_events_go_that_do_not_say_it_and_its_key_comes_first() {
    let target = Target { exchange: Some("orders".into()), routing_key: Some("a.b".into()) };
    let read = |pairs: &[(&str, &str)]| {
        let pairs: Vec<_> = ORDER.iter().chain(pairs).copied().collect();
        binary::read(&headers(&pairs), Bytes::from_static(b"x")).unwrap().into_message(&target, Some("mine".into())).unwrap()
    };
    let message = read(&[]);
    assert_eq!((message.exchange.as_str(), message.routing_key.as_str()), ("orders", "a.b"));
    assert_eq!(message.idempotency_key, "mine");
    let message = read(&[("ce-exchange", "stock"), ("ce-routingkey", "c.d")]);
    assert_eq!((message.exchange.as_str(), message.routing_key.as_str()), ("stock", "c.d"));
}

#[test]
fn data_travel_as_their_type_asks() {
    let read = |members: &str| {
        let json = format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t",{members}}}"#);
        structured_text(&json).map(|message| (message.content_type, message.body))
    };
    let rows: [(&str, &str, &[u8]); 7] = [
        (r#""data": { "b" : 1, "a":1.50 } "#, "application/json", br#"{ "b" : 1, "a":1.50 }"#),
        (r#""data":"text""#, "application/json", b"\"text\""),
        (r#""data":"<o n=\"1\"/>","datacontenttype":"application/xml""#, "application/xml", b"<o n=\"1\"/>"),
        (r#""data":{},"datacontenttype":"application/vnd.order+json; v=1""#, "application/vnd.order+json; v=1", b"{}"),
        (r#""data_base64":"AP8=","datacontenttype":"image/png""#, "image/png", &[0, 255]),
        (r#""data_base64":"e30=""#, "application/json", b"{}"),
        (r#""data":null"#, "application/json", b""),
    ];
    for (members, content_type, body) in rows {
        assert_eq!(read(members), Ok((content_type.to_owned(), Bytes::copy_from_slice(body))), "{members}");
    }
    for (members, word) in [
        (r#""data":{},"data_base64":"e30=""#, "both"),
        (r#""data_base64":"e30""#, "base64"),
        (r#""data_base64":5"#, "data_base64"),
        (r#""data":{},"datacontenttype":"text/plain""#, "data_base64"),
        (r#""datacontenttype":7,"data":1"#, "datacontenttype"),
    ] {
        let refusal = read(members).unwrap_err().to_string();
        assert!(refusal.contains(word), "{members}: {refusal}");
    }
}

#[test]
fn what_is_missing_or_malformed_is_named_in_binary_mode() {
    let long = "x".repeat(300);
    let rows: [(Pairs<'_>, &[&str]); 14] = [
        (&[("ce-specversion", "")], &["header ce-specversion is missing", "1.0"]),
        (&[("ce-specversion", "0.3")], &["ce-specversion", "\"0.3\"", "1.0"]),
        (&[("ce-id", "")], &["header ce-id is missing", "unique"]),
        (&[("ce-source", "")], &["header ce-source is missing", "/shop/orders"]),
        (&[("ce-source", "my%20shop")], &["ce-source", "\"my shop\"", "without spaces"]),
        (&[("ce-type", "")], &["header ce-type is missing", "order.created"]),
        (&[("ce-time", "yesterday")], &["ce-time", "RFC 3339"]),
        (&[("ce-datacontenttype", "text/plain")], &["ce-datacontenttype", "Content-Type"]),
        (&[("ce-some-thing", "x")], &["ce-some-thing", "lower-case letters and digits"]),
        (&[("ce-tenant", "%FF")], &["ce-tenant", "UTF-8", "%25"]),
        (&[("ce-tenant", "a%0Ab")], &["ce-tenant", "control character"]),
        (&[("ce-eventid", "x")], &["ce-eventid", "rename"]),
        (&[("ce-tenant", "a"), ("ce-tenant", "b")], &["ce-tenant", "twice"]),
        (&[("ce-id", &long)], &["306 bytes", "255", "Idempotency-Key"]),
    ];
    for (changes, words) in rows {
        let refusal = binary_with(changes).unwrap_err();
        let text = refusal.to_string();
        assert!(matches!(refusal, Refusal::Invalid(_)) && words.iter().all(|word| text.contains(word)), "{changes:?}: {text}");
    }
}

#[test]
fn what_is_missing_or_malformed_is_named_in_structured_mode() {
    let rows = [
        (json!({"specversion": 1.0}), &["\"specversion\"", "quotes"][..]),
        (json!({"id": null}), &["member \"id\" is missing"]),
        (json!({"id": ""}), &["\"id\"", "unique"]),
        (json!({"id": 5}), &["\"id\"", "JSON string"]),
        (json!({"source": "a b"}), &["\"source\"", "without spaces"]),
        (json!({"subject": ""}), &["\"subject\"", "leave it out"]),
        (json!({"Tenant": "x"}), &["\"Tenant\"", "lower-case"]),
        (json!({"tenant": {"a": 1}}), &["\"tenant\"", "whole number"]),
        (json!({"tenant": 1.5}), &["\"tenant\"", "whole number"]),
        (json!({"tenant": "a\nb"}), &["\"tenant\"", "control character"]),
    ];
    for (changes, words) in rows {
        let text = structured_with(&changes).unwrap_err().to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{changes}: {text}");
    }
    let message = structured_with(&json!({"count": -7, "fresh": true, "gone": null})).unwrap();
    assert_eq!((message.headers["count"].as_str(), message.headers["fresh"].as_str()), ("-7", "true"));
    assert!(!message.headers.contains_key("gone"));
}

#[test]
fn what_is_no_event_at_all_is_told_what_to_send() {
    let refusal = binary::read(&headers(&[("content-type", "application/json")]), Bytes::from_static(b"{}")).unwrap_err();
    let text = refusal.to_string();
    for word in ["ce-specversion", "ce-id", "ce-source", "ce-type", "application/cloudevents+json"] {
        assert!(text.contains(word), "{text}");
    }
    for (json, word) in [
        ("", "ends too early"),
        ("{\"id\":", "ends too early"),
        ("\"a secret text\"", "something else"),
        ("{,}", "not JSON"),
        ("{\"id\":\"1\",\"id\":\"2\"}", "twice"),
    ] {
        let text = structured_text(json).unwrap_err().to_string();
        assert!(text.contains("JSON object") && text.contains(word) && !text.contains("secret"), "{json}: {text}");
    }
}

#[test]
fn a_batch_is_split_and_counted_beyond_what_is_kept() {
    let (events, count) = structured::split(b" [ {\"a\": 1} , 7 ]").unwrap();
    assert_eq!((events.iter().map(|event| event.get()).collect::<Vec<_>>(), count), (vec!["{\"a\": 1}", "7"], 2));
    let many = format!("[{}]", vec!["0"; 600].join(","));
    let (events, count) = structured::split(many.as_bytes()).unwrap();
    assert_eq!((events.len(), count), (500, 600));
    assert!(structured::split(b"{}").unwrap_err().to_string().contains("JSON array"));
}
