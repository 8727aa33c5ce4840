//! Against a real HTTP server in this process.

mod raw;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Redirect};
use axum::routing::{get, post};
use countersign_delivery::ports::broker::{Delivered, Handle};
use countersign_testkit::build::{a_message_with, subscription, upstream};
use countersign_wire::arrival;
use countersign_wire::publication::{Publish, to_exchange};

use super::*;

type Seen = Arc<Mutex<Vec<(SocketAddr, String, HeaderMap, Bytes)>>>;

async fn answer(
    State(seen): State<Seen>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    Path(how): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> axum::response::Response {
    let number = {
        let mut seen = seen.lock().unwrap();
        seen.push((from, uri.path().to_owned(), headers, body));
        u16::try_from(seen.len()).unwrap()
    };
    if how == "next" {
        return (StatusCode::from_u16(199 + number).unwrap(), [("location", "/ok")], "").into_response();
    }
    match how.as_str() {
        "moved" => Redirect::temporary("/ok").into_response(),
        "known" => ([("countersign-outcome", "duplicate")], "").into_response(),
        "wrong" => (StatusCode::UNPROCESSABLE_ENTITY, "no\nsuch product").into_response(),
        "flood" => (StatusCode::OK, vec![b'x'; 8 * ANSWER_MAX]).into_response(),
        "slow" => {
            tokio::time::sleep(Duration::from_mins(1)).await;
            "".into_response()
        }
        _ => "".into_response(),
    }
}

async fn server() -> (SocketAddr, Seen) {
    let seen = Seen::default();
    let routes = axum::Router::new().route("/{how}", post(answer)).route("/{how}", get(answer)).with_state(seen.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = axum::serve(listener, routes.into_make_service_with_connect_info::<SocketAddr>());
    countersign_boot::Tasks::new(countersign_boot::Stop::default()).critical("server", async { served.await });
    (address, seen)
}

fn an_event(body: &str) -> Event {
    let sent = to_exchange(&a_message_with(1, body), &upstream("shop"), Publish::FIRST);
    let handle = Handle { generation: 1, tag: 1 };
    let (exchange, routing_key, properties) = (sent.exchange, sent.routing_key, sent.properties);
    arrival::read(&Delivered { handle, exchange, routing_key, redelivered: false, properties, body: sent.body }).unwrap()
}

async fn deliver(address: SocketAddr, how: &str, body: &str, handler: Option<&HttpHandler>) -> Result<Handled, Failure> {
    let event = an_event(body);
    let idempotency_key = event.id.to_string();
    let context =
        HandlerContext { subscription: subscription("inventory"), idempotency_key, starts: 1, crashes: 0, timeout_ms: 500 };
    match handler {
        Some(handler) => handler.handle(&event, &context).await,
        None => to(address, how).handle(&event, &context).await,
    }
}

fn to(address: SocketAddr, how: &str) -> HttpHandler {
    let _ = rustls::crypto::ring::default_provider().install_default();
    HttpHandler::new(&Secret::new(format!("http://{address}/{how}")), Duration::from_millis(500), 4).unwrap()
}

#[tokio::test]
async fn the_body_arrives_untouched_over_one_connection() {
    let (address, seen) = server().await;
    let handler = to(address, "ok");
    for body in ["{\"a\": 1}", "\u{0}\r\n raw", ""] {
        assert_eq!(deliver(address, "ok", body, Some(&handler)).await, Ok(Handled::Done));
    }
    let seen = seen.lock().unwrap();
    let bodies: Vec<_> = seen.iter().map(|(_, _, _, body)| body.clone()).collect();
    assert_eq!(bodies, ["{\"a\": 1}", "\u{0}\r\n raw", ""]);
    assert!(seen.iter().all(|(from, ..)| *from == seen[0].0), "one connection is kept");
    assert_eq!(seen[0].2["idempotency-key"], seen[0].2["ce-id"]);
}

#[tokio::test]
async fn every_status_of_a_real_server_is_judged_as_ruled_and_keeps_the_connection() {
    let (address, seen) = server().await;
    let handler = to(address, "next");
    for status in 200..=599_u16 {
        let expected = match status {
            200..=299 => Ok(Handled::Done),
            400 | 413 | 415 | 422 => Err(Failure::reject(format!("HTTP {status}"))),
            _ => Err(Failure::retry(format!("HTTP {status}"))),
        };
        assert_eq!(deliver(address, "next", "x", Some(&handler)).await, expected, "{status}");
    }
    let seen = seen.lock().unwrap();
    assert!(
        seen.iter().all(|(from, path, ..)| path == "/next" && *from == seen[0].0),
        "one connection is kept, whatever is answered"
    );
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let (address, seen) = server().await;
    assert_eq!(deliver(address, "moved", "x", None).await, Err(Failure::retry("HTTP 307")));
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn an_answer_may_say_that_the_message_was_known() {
    let (address, _) = server().await;
    assert_eq!(deliver(address, "known", "x", None).await, Ok(Handled::Duplicate));
}

#[tokio::test]
async fn a_refusal_keeps_its_words_on_one_line() {
    let (address, _) = server().await;
    assert_eq!(deliver(address, "wrong", "x", None).await, Err(Failure::reject("HTTP 422: no such product")));
}

#[tokio::test]
async fn a_flood_of_an_answer_is_not_read_to_its_end_and_its_status_counts() {
    let (address, _) = server().await;
    assert_eq!(deliver(address, "flood", "x", None).await, Ok(Handled::Done));
}

#[tokio::test]
async fn no_answer_and_no_server_are_tried_again_and_the_address_is_not_shown() {
    let (address, _) = server().await;
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    for (address, how) in [(address, "slow"), (nobody, "ok")] {
        let Err(Failure::Retry { detail }) = deliver(address, how, "x", None).await else { panic!("it is tried again") };
        assert!(!detail.contains("http://"), "{detail}");
    }
}

#[test]
fn answers_are_mapped_as_ruled() {
    for status in 100..=599 {
        let expected = match status {
            200..=299 => "done",
            400 | 413 | 415 | 422 => "reject",
            _ => "retry",
        };
        let got = match judge(status, false, "") {
            Ok(_) => "done",
            Err(Failure::Reject { .. }) => "reject",
            Err(Failure::Retry { .. }) => "retry",
        };
        assert_eq!(got, expected, "{status}");
    }
    assert_eq!(judge(409, true, "no"), Err(Failure::Retry { detail: "HTTP 409: no".into() }));
}
