//! The router on a whole upstream between fakes.

use std::sync::Arc;

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::request::Builder;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;
use crate::stage::{Mortal, Process, Stage, pass, section};

struct Door {
    stage: Stage,
    process: Process,
    router: Router,
}

struct Answer {
    status: StatusCode,
    headers: axum::http::HeaderMap,
    json: Value,
}

impl Door {
    async fn open() -> Self {
        Self::with(section()).await
    }

    async fn with(section: UpstreamSection) -> Self {
        let stage = Stage::new();
        let process = stage.start_on(section.clone(), Arc::new(stage.messages.clone()));
        pass(1).await;
        let router = router(process.upstream.clone(), &section);
        Self { stage, process, router }
    }

    async fn call(&self, request: axum::http::Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let json = serde_json::from_slice(&body).unwrap_or(Value::Null);
        if head.status != StatusCode::ACCEPTED {
            assert_eq!(head.headers["content-type"], "application/problem+json", "{json}");
            assert_eq!(json["status"], head.status.as_u16(), "{json}");
            assert!(["type", "title", "detail", "code"].iter().all(|member| json[member].is_string()), "{json}");
        }
        Answer { status: head.status, headers: head.headers, json }
    }

    async fn post(&self, request: Builder, body: impl Into<Body>) -> Answer {
        self.call(request.body(body.into()).unwrap()).await
    }
}

fn post() -> Builder {
    Builder::new().method("POST").uri(PATH)
}

/// An order in binary mode.
fn order(id: &str) -> Builder {
    let attributes = [("ce-specversion", "1.0"), ("ce-id", id), ("ce-source", "/shop"), ("ce-type", "order.created")];
    attributes.into_iter().fold(post(), |request, (name, value)| request.header(name, value)).header("content-type", "text/plain")
}

/// An order as JSON.
fn an_event(id: &str) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "/shop", "type": "order.created", "datacontenttype": "text/plain", "data": "x"})
}

fn batch() -> Builder {
    post().header("content-type", "application/cloudevents-batch+json")
}

#[tokio::test(start_paused = true)]
async fn every_mode_is_accepted_and_the_same_event_is_one_message() {
    let door = Door::open().await;
    let first = door.post(order("1"), "x").await;
    assert_eq!(
        (first.status, &first.json["state"], &first.json["duplicate"]),
        (StatusCode::ACCEPTED, &"confirmed".into(), &false.into())
    );
    let again = door.post(order("1"), "x").await;
    let structured = post().header("content-type", "application/cloudevents+json");
    let structured = door.post(structured, an_event("1").to_string()).await;
    let batched = door.post(batch(), json!([an_event("1"), an_event("2")]).to_string()).await;
    for repeat in [&again.json, &structured.json, &batched.json["results"][0]] {
        assert_eq!((&repeat["id"], &repeat["duplicate"]), (&first.json["id"], &true.into()), "{repeat}");
        assert_eq!(repeat["fingerprint"], first.json["fingerprint"]);
    }
    assert_eq!((batched.status, &batched.json["results"][1]["duplicate"]), (StatusCode::ACCEPTED, &false.into()));
    assert_eq!(door.stage.delivered("orders").len(), 2);
    let stored = door.stage.stored().await;
    assert_eq!(stored[0].message.idempotency_key.as_ref().unwrap().as_str(), "/shop 1");
    assert_eq!(stored[0].message.headers["eventid"], "1");
}

/// While the broker is away the others wait for it in vain.
#[tokio::test(start_paused = true)]
async fn who_prefers_not_to_wait_is_answered_at_the_commit() {
    let door = Door::open().await;
    door.stage.broker.go_down();
    let quick = |request: Builder| request.header("prefer", "respond-async");
    let begun = tokio::time::Instant::now();
    let single = door.post(quick(order("1")), "x").await;
    let batched = door.post(quick(batch()), json!([an_event("2")]).to_string()).await;
    assert_eq!((begun.elapsed().as_millis(), single.status, batched.status), (0, StatusCode::ACCEPTED, StatusCode::ACCEPTED));
    assert_eq!((&single.json["state"], &batched.json["results"][0]["state"]), (&"committed".into(), &"committed".into()));
    door.post(order("3"), "x").await;
    assert!(begun.elapsed().as_millis() > 0);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_has_its_status_and_the_code_that_grpc_answers() {
    let door = Door::with(UpstreamSection { max_body_bytes: 8, ..section() }).await;
    door.post(order("1"), "x").await;
    let by_chunks = Body::from_stream(futures::stream::iter([Ok::<_, std::io::Error>("12345"), Ok("6789")]));
    let structured = || post().header("content-type", "application/cloudevents+json");
    let large = json!({"specversion": "1.0", "id": "3", "source": "/s", "type": "order.created", "data": "1234567"});
    let rows = [
        (post(), Body::from("x"), 400, "INVALID_ARGUMENT", "ce-specversion: 1.0"),
        (post().uri("/v1/messages?topic=a"), "x".into(), 400, "INVALID_ARGUMENT", "exchange and routing_key"),
        (order("2"), "".into(), 400, "INVALID_ARGUMENT", "body is empty"),
        (order("2"), "123456789".into(), 413, "INVALID_ARGUMENT", "body has 9 bytes; at most 8"),
        (order("2"), by_chunks, 413, "INVALID_ARGUMENT", "more than 8 bytes; at most 8"),
        (structured(), large.to_string().into(), 413, "INVALID_ARGUMENT", "body has 9 bytes; at most 8"),
        (order("2").header("content-encoding", "gzip"), "x".into(), 415, "INVALID_ARGUMENT", "gzip"),
        (order("1"), "y".into(), 409, "ALREADY_EXISTS", "/shop 1"),
        (order("2").header("ce-routingkey", "nobody"), "x".into(), 422, "FAILED_PRECONDITION", "nobody"),
        (order("2").uri("/v1/messages?exchange=nowhere"), "x".into(), 422, "FAILED_PRECONDITION", "nowhere"),
        (order("2").method("GET"), Body::empty(), 405, "UNIMPLEMENTED", "POST"),
        (order("2").uri("/v1/message"), "x".into(), 404, "UNIMPLEMENTED", "/v1/messages"),
        (batch(), "[]".into(), 400, "INVALID_ARGUMENT", "1 to 500"),
        (batch(), format!("[{}]", vec!["0"; 501].join(",")).into(), 400, "INVALID_ARGUMENT", "501 messages; 1 to 500"),
        (batch().header("idempotency-key", "a"), "[]".into(), 400, "INVALID_ARGUMENT", "Idempotency-Key"),
    ];
    for (request, body, status, code, word) in rows {
        let answer = door.post(request, body).await;
        let text = answer.json["detail"].as_str().unwrap();
        assert_eq!((answer.status.as_u16(), answer.json["code"].as_str()), (status, Some(code)), "{text}");
        assert!(text.contains(word), "{word}: {text}");
        assert_eq!(answer.headers.contains_key("allow"), status == 405, "{word}");
        assert!(!answer.headers.contains_key("retry-after"), "{word}");
    }
    assert_eq!(door.stage.stored().await.len(), 1, "nothing that was refused is stored");
}

#[tokio::test(start_paused = true)]
async fn a_batch_with_too_many_bytes_is_refused_with_both_sizes() {
    let door = Door::open().await;
    let events: Vec<_> = (0..5)
        .map(|id| json!({"specversion": "1.0", "id": id.to_string(), "source": "/s", "type": "order.created", "data": "x".repeat(1_000_000)}))
        .collect();
    let answer = door.post(batch(), Value::from(events).to_string()).await;
    let detail = answer.json["detail"].as_str().unwrap();
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(detail.contains("at most 4194304 are accepted: split it"), "{detail}");
    assert_eq!(door.stage.stored().await.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_2xx_only_when_all_of_it_is_accepted_and_a_repeat_takes_the_rest() {
    let door = Door::open().await;
    let unroutable = json!({"specversion": "1.0", "id": "3", "source": "/shop", "type": "nobody.cares", "data": 1});
    let malformed = json!({"specversion": "1.0", "source": "/shop", "type": "order.created", "data": 1});
    let mixed = json!([malformed, an_event("1"), unroutable, an_event("2")]).to_string();
    let answer = door.post(batch(), mixed).await;
    assert_eq!((answer.status.as_u16(), answer.json["type"].as_str()), (422, Some("urn:countersign:batch-refused")));
    let results = answer.json["results"].as_array().unwrap();
    let status = |result: &Value| result["status"].as_u64().unwrap_or(202);
    assert_eq!(results.iter().map(status).collect::<Vec<_>>(), [400, 202, 422, 202], "{results:?}");
    assert!(results[0]["detail"].as_str().unwrap().contains("\"id\""), "{results:?}");

    let mended = json!([an_event("0"), an_event("1"), an_event("3"), an_event("2")]).to_string();
    let answer = door.post(batch(), mended).await;
    let duplicates: Vec<_> =
        answer.json["results"].as_array().unwrap().iter().map(|result| result["duplicate"] == true).collect();
    assert_eq!((answer.status, duplicates), (StatusCode::ACCEPTED, vec![false, true, false, true]));
    assert_eq!(door.stage.delivered("orders").len(), 4);
    let only_malformed = door.post(batch(), "[{}, 7]").await;
    assert_eq!(only_malformed.status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test(start_paused = true)]
async fn what_is_for_now_is_told_when_to_come_back_a_batch_included() {
    let door = Door::with(UpstreamSection { max_unconfirmed: 1, retry_after_ms: 2_500, ..section() }).await;
    door.stage.broker.go_down();
    let unroutable = json!({"specversion": "1.0", "id": "0", "source": "/shop", "type": "nobody.cares", "data": 1});
    let answer = door.post(batch(), json!([unroutable, an_event("1"), an_event("2")]).to_string()).await;
    assert_eq!((answer.status, answer.json["code"].as_str()), (StatusCode::TOO_MANY_REQUESTS, Some("RESOURCE_EXHAUSTED")));
    assert_eq!(answer.headers["retry-after"], "3");
    assert_eq!(answer.json["results"][1]["state"], "committed");
    let answer = door.post(order("3"), "x").await;
    assert_eq!((answer.status, answer.headers["retry-after"].to_str().unwrap()), (StatusCode::TOO_MANY_REQUESTS, "3"));
}

#[tokio::test(start_paused = true)]
async fn without_the_broker_an_event_is_committed_and_delivered_when_it_is_back() {
    let door = Door::open().await;
    door.stage.broker.go_down();
    let answer = door.post(order("1"), "x").await;
    assert_eq!((answer.status, answer.json["state"].as_str()), (StatusCode::ACCEPTED, Some("committed")));
    door.stage.broker.come_up();
    pass(1_000).await;
    assert_eq!(door.stage.delivered("orders"), [answer.json["id"].as_str().unwrap()]);
    let again = door.post(order("1"), "x").await;
    assert_eq!((again.json["state"].as_str(), &again.json["duplicate"]), (Some("confirmed"), &true.into()));
}

#[tokio::test(start_paused = true)]
async fn without_the_database_nothing_is_promised() {
    let stage = Stage::new();
    let section = section();
    let process = stage.start_on(section.clone(), Arc::new(Mortal::after(0, &stage.messages)));
    let router = router(process.upstream.clone(), &section);
    let door = Door { stage, process, router };
    let answer = door.post(order("1"), "x").await;
    assert_eq!((answer.status, answer.json["code"].as_str()), (StatusCode::SERVICE_UNAVAILABLE, Some("UNAVAILABLE")));
    assert_eq!(answer.headers["retry-after"], "1");
}

#[tokio::test(start_paused = true)]
async fn the_trace_of_the_request_goes_on_unless_the_event_has_its_own() {
    let door = Door::open().await;
    let parent = |digit: &str| format!("00-{}-{}-01", digit.repeat(32), digit.repeat(16));
    door.post(order("1").header("traceparent", parent("1")).header("tracestate", "a=1"), "x").await;
    door.post(order("2").header("traceparent", parent("1")).header("ce-traceparent", parent("2")), "x").await;
    door.post(order("3").header("traceparent", "nonsense"), "x").await;
    let traces: Vec<_> = door.stage.stored().await.into_iter().map(|stored| stored.message.trace).collect();
    let trace = |digit, state: Option<&str>| TraceContext { traceparent: parent(digit), tracestate: state.map(str::to_owned) };
    assert_eq!(traces, [Some(trace("1", Some("a=1"))), Some(trace("2", None)), None]);
}

#[tokio::test(start_paused = true)]
async fn a_stopping_upstream_refuses_before_it_reads() {
    let door = Door::open().await;
    door.process.context.stop.begin_soft();
    let answer = door.post(order("1"), Body::from_stream(futures::stream::pending::<std::io::Result<Bytes>>())).await;
    assert_eq!((answer.status, answer.json["code"].as_str()), (StatusCode::SERVICE_UNAVAILABLE, Some("UNAVAILABLE")));
    assert!(answer.headers.contains_key("retry-after"));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_arrive_is_given_up_and_one_that_breaks_off_is_not_sent() {
    let door = Door::open().await;
    let part = futures::stream::iter([Ok::<_, std::io::Error>("x")]);
    let slow = Body::from_stream(part.chain(futures::stream::pending()));
    assert_eq!(door.post(order("1"), slow).await.status, StatusCode::REQUEST_TIMEOUT);
    let broken = Body::from_stream(futures::stream::iter([Ok("x"), Err(std::io::Error::other("reset"))]));
    assert_eq!(door.post(order("1"), broken).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(door.stage.stored().await.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn no_more_than_the_bounds_is_taken_in_at_a_time_and_all_room_comes_back() {
    let door = Door::with(UpstreamSection { http_max_requests: 2, ..section() }).await;
    let hanging = || Body::from_stream(futures::stream::pending::<std::io::Result<Bytes>>());
    let two = futures::future::join(door.post(order("1"), hanging()), door.post(order("2"), hanging()));
    let third = async {
        pass(1).await;
        door.post(order("3"), "x").await
    };
    let ((first, second), third) = futures::future::join(two, third).await;
    assert_eq!((first.status, second.status), (StatusCode::REQUEST_TIMEOUT, StatusCode::REQUEST_TIMEOUT));
    assert_eq!((third.status, third.json["code"].as_str()), (StatusCode::TOO_MANY_REQUESTS, Some("RESOURCE_EXHAUSTED")));
    assert!(third.json["detail"].as_str().unwrap().contains("http_max_requests") && third.headers.contains_key("retry-after"));
    assert_eq!(door.post(order("3"), "x").await.status, StatusCode::ACCEPTED);

    let bounds = Bounds::new(&UpstreamSection { http_max_held_bytes: 200 * 1024, ..section() });
    let read = async |body: Body| bounds.read(&mut body.into_data_stream(), Mode::Binary).await;
    let first = read(Body::from(vec![0; 150 * 1024])).await.unwrap();
    for body in [Body::from(vec![0; 60 * 1024]), Body::from_stream(futures::stream::iter([Ok::<_, std::io::Error>("x")]))] {
        let problem = read(body).await.unwrap_err();
        assert_eq!(problem.status(), StatusCode::TOO_MANY_REQUESTS);
    }
    drop(first);
    let growing = futures::stream::iter((0..5).map(|_| Ok::<_, std::io::Error>(vec![0_u8; 60 * 1024])));
    let problem = read(Body::from_stream(growing)).await.unwrap_err();
    assert_eq!(problem.status(), StatusCode::TOO_MANY_REQUESTS, "a body of unknown length takes its room as it grows");
    assert!(read(Body::from(vec![0; 190 * 1024])).await.is_ok());
}
