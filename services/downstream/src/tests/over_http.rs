//! A whole subscription in front of a real HTTP service.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use countersign_boot::Secret;
use countersign_testkit::build::a_message_with;
use countersign_wire::publication::Publish;
use tokio::sync::Barrier;

use super::world::{Given, World};
use crate::guard::Handling;
use crate::http::HttpHandler;

const CONCURRENCY: u32 = 4;

/// What the service has seen.
struct Seen {
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    connections: Mutex<BTreeSet<SocketAddr>>,
    keys: Mutex<Vec<String>>,
    /// As many calls as there may be at a time must be there together before any is answered.
    all_there: Barrier,
}

async fn take(State(seen): State<Arc<Seen>>, ConnectInfo(from): ConnectInfo<SocketAddr>, headers: HeaderMap) -> StatusCode {
    let now = seen.at_once.fetch_add(1, Ordering::SeqCst) + 1;
    seen.most_at_once.fetch_max(now, Ordering::SeqCst);
    seen.connections.lock().unwrap().insert(from);
    seen.keys.lock().unwrap().push(headers["idempotency-key"].to_str().unwrap().to_owned());
    seen.all_there.wait().await;
    seen.at_once.fetch_sub(1, Ordering::SeqCst);
    StatusCode::NO_CONTENT
}

#[tokio::test]
async fn a_service_is_called_as_often_at_a_time_as_configured_and_over_as_many_connections() {
    let concurrency = usize::try_from(CONCURRENCY).unwrap();
    let seen = Arc::new(Seen {
        at_once: AtomicUsize::new(0),
        most_at_once: AtomicUsize::new(0),
        connections: Mutex::default(),
        keys: Mutex::default(),
        all_there: Barrier::new(concurrency),
    });
    let routes = axum::Router::new().route("/", post(take)).with_state(seen.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = axum::serve(listener, routes.into_make_service_with_connect_info::<SocketAddr>());
    let _ = rustls::crypto::ring::default_provider().install_default();
    let endpoint = Secret::new(format!("http://{address}/"));
    let handler = Arc::new(HttpHandler::new(&endpoint, Duration::from_mins(1), concurrency).unwrap());

    let world =
        World::given(Given { concurrency: CONCURRENCY, handling: Box::new(|_| Handling::Direct(handler)), ..Given::default() });
    world.context.tasks.critical("server", async { served.await });
    let messages = 50 * u64::from(CONCURRENCY);
    for n in 1..=messages {
        world.arrives(&a_message_with(n, "{}"), Publish::FIRST).await;
    }
    world.start();
    world.settled().await;

    let keys = seen.keys.lock().unwrap();
    assert_eq!((keys.len() as u64, keys.iter().collect::<BTreeSet<_>>().len() as u64), (messages, messages));
    assert_eq!(seen.most_at_once.load(Ordering::SeqCst), concurrency);
    let connections = seen.connections.lock().unwrap().len();
    assert!(connections <= 2 * concurrency, "{messages} messages went over {connections} connections");
    assert_eq!(world.words().len() as u64, messages);
}
