//! A handler behind HTTP that counts and does nothing else: `POST /` takes a message, `GET /tally` says what was seen.

#![allow(clippy::disallowed_methods, reason = "a tool without a launch frame; the ban is for the product")]

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use axum::{Json, Router};
use countersign_bench::tally::{Counting, Tally};
use tokio::net::TcpListener;

/// What a delivery is known by.
const KEY: &str = "idempotency-key";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let router = Router::new().route("/", post(take)).route("/tally", get(tell)).with_state(Arc::new(Counting::default()));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on {}", listener.local_addr()?);
    // What is written is whole. A connection that refuses is gone already.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    axum::serve(listener, router).await?;
    Ok(())
}

async fn take(State(counting): State<Arc<Counting>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    match headers.get(KEY).and_then(|key| key.to_str().ok()) {
        Some(key) => {
            counting.note(key, &body);
            StatusCode::OK
        }
        None => StatusCode::BAD_REQUEST,
    }
}

async fn tell(State(counting): State<Arc<Counting>>) -> Json<Tally> {
    Json(counting.tally())
}
