use axum::http::{HeaderName, HeaderValue, StatusCode};

use super::*;

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &'static str)| (HeaderName::from_static(name), HeaderValue::from_static(value));
    let mut headers = HeaderMap::new();
    for (name, value) in pairs.iter().map(pair) {
        headers.append(name, value);
    }
    headers
}

#[test]
fn the_content_type_tells_the_mode() {
    let rows = [
        ("application/json", Some(Mode::Binary)),
        ("", Some(Mode::Binary)),
        ("Application/CloudEvents+JSON; charset=UTF-8", Some(Mode::Structured)),
        ("application/cloudevents+json;charset=\"utf-8\"", Some(Mode::Structured)),
        ("application/cloudevents-batch+json", Some(Mode::Batch)),
        ("application/cloudevents+xml", None),
        ("application/cloudevents", None),
        ("application/cloudevents+json; charset=iso-8859-1", None),
    ];
    for (text, expected) in rows {
        let got = Mode::of(&headers(&[("content-type", text)]));
        match expected {
            Some(mode) => assert_eq!(got.unwrap(), mode, "{text}"),
            None => assert_eq!(got.unwrap_err().status(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "{text}"),
        }
    }
    assert_eq!(Mode::of(&HeaderMap::new()).unwrap(), Mode::Binary);
    let twice = headers(&[("content-type", "a/b"), ("content-type", "a/c")]);
    assert_eq!(Mode::of(&twice).unwrap_err().status(), StatusCode::BAD_REQUEST);
}

#[test]
fn a_compressed_body_is_not_read() {
    for encoding in ["gzip", "br", "identity, gzip"] {
        let problem = Mode::of(&headers(&[("content-encoding", encoding)])).unwrap_err();
        assert_eq!(problem.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "{encoding}");
    }
    assert_eq!(Mode::of(&headers(&[("content-encoding", "Identity")])).unwrap(), Mode::Binary);
}

#[test]
fn the_query_names_exchange_and_routing_key_and_nothing_else() {
    let target = |text: &str| Target::of(&text.parse::<Uri>().unwrap());
    let both = Target { exchange: Some("orders eu".into()), routing_key: Some("a.b".into()) };
    assert_eq!(target("/v1/messages?exchange=orders%20eu&routing_key=a.b"), Ok(both));
    assert_eq!(target("/v1/messages"), Ok(Target::default()));
    assert_eq!(target("/v1/messages?routing_key=").unwrap().routing_key.as_deref(), Some(""));
    for (query, words) in
        [("?exchang=orders", ["\"exchang\"", "exchange and routing_key"]), ("?exchange=a&exchange=b", ["exchange", "twice"])]
    {
        let refusal = target(&format!("/v1/messages{query}")).unwrap_err().to_string();
        assert!(words.iter().all(|word| refusal.contains(word)), "{refusal}");
    }
}

#[test]
fn an_idempotency_key_is_plain_or_quoted() {
    let read = |text: &'static str| key(&headers(&[("idempotency-key", text)]), Mode::Binary);
    for (text, expected) in [("A-17", "A-17"), ("\"A 17\"", "A 17"), (r#""a\"b\\c""#, r#"a"b\c"#), ("a\"b", "a\"b")] {
        assert_eq!(read(text), Ok(Some(expected.to_owned())), "{text}");
    }
    for (text, word) in
        [("", "empty"), ("\"\"", "empty"), ("\"open", "quoted string"), ("\"a\";b=1", "quoted"), (r#""\n""#, "quoted")]
    {
        let refusal = read(text).unwrap_err().to_string();
        assert!(refusal.contains("Idempotency-Key") && refusal.contains(word), "{text}: {refusal}");
    }
    let mut long = HeaderMap::new();
    long.insert("idempotency-key", HeaderValue::from_str(&"k".repeat(256)).unwrap());
    let refusal = key(&long, Mode::Structured).unwrap_err().to_string();
    assert!(refusal.contains("256 bytes") && refusal.contains("at most 255"), "{refusal}");
    assert_eq!(key(&HeaderMap::new(), Mode::Batch), Ok(None));
    for (pairs, mode) in
        [(&[("idempotency-key", "a")][..], Mode::Batch), (&[("idempotency-key", "a"), ("idempotency-key", "b")], Mode::Binary)]
    {
        assert!(key(&headers(pairs), mode).is_err());
    }
}

#[test]
fn a_trace_is_read_if_it_is_one() {
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let trace = call_trace(&headers(&[("traceparent", parent), ("tracestate", "a=1")])).unwrap();
    assert_eq!((trace.traceparent.as_str(), trace.tracestate.as_deref()), (parent, Some("a=1")));
    assert_eq!(call_trace(&headers(&[("traceparent", "nonsense")])), None);
}

#[test]
fn who_prefers_not_to_wait_is_answered_at_the_commit() {
    let rows: [(&[&'static str], AnswerWhen); 6] = [
        (&[], AnswerWhen::Confirmed),
        (&["respond-async"], AnswerWhen::Committed),
        (&["wait=10, Respond-Async"], AnswerWhen::Committed),
        (&["handling=lenient", "respond-async; foo=1"], AnswerWhen::Committed),
        (&["return=minimal"], AnswerWhen::Confirmed),
        (&["respond-asynchronously"], AnswerWhen::Confirmed),
    ];
    for (preferences, expected) in rows {
        let pairs: Vec<_> = preferences.iter().map(|preference| ("prefer", *preference)).collect();
        assert_eq!(answer_when(&headers(&pairs)), expected, "{preferences:?}");
    }
}
