//! The HTTP side.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::behave::{Behaviour, Wish};
use crate::effects::{Counts, Done, Effects, Order, Summary};

/// Headers without which a delivery is not a `CloudEvent` in binary mode.
const REQUIRED: [&str; 3] = ["ce-id", "ce-type", "ce-source"];
const OUTCOME: &str = "countersign-outcome";

/// What the handlers share.
#[derive(Debug)]
pub struct State {
    /// The database.
    pub effects: Effects,
    /// The wish in force.
    pub behaviour: Behaviour,
    /// Calls without an answer.
    pub in_flight: InFlight,
}

/// Calls that are being answered.
#[derive(Debug, Default)]
pub struct InFlight(AtomicU64);

/// One of them, until it is dropped: a caller that hangs up ends its call.
struct Call<'a>(&'a AtomicU64);

impl InFlight {
    fn begin(&self) -> Call<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Call(&self.0)
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An error of the service itself: the caller should come again.
#[derive(Debug)]
pub struct Failure(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        eprintln!("failed: {:#}", self.0);
        (StatusCode::INTERNAL_SERVER_ERROR, format!("{:#}\n", self.0)).into_response()
    }
}

/// `POST /orders`: one delivery.
pub async fn take(Shared(state): Shared<Arc<State>>, headers: HeaderMap, body: Bytes) -> Result<Response, Failure> {
    let _call = state.in_flight.begin();
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    if let Some(missing) = REQUIRED.iter().find(|name| text(name).is_none()) {
        return Ok((StatusCode::BAD_REQUEST, format!("header {missing} is missing\n")).into_response());
    }
    let ce_id = text("ce-id").unwrap_or_default();
    let key = text("idempotency-key").unwrap_or_else(|| ce_id.clone());
    let turn = state.behaviour.turn(&key);
    tokio::time::sleep(turn.delay).await;
    if let Some(status) = turn.status {
        state.effects.refuse(key, status, now_ms()?).await?;
        return Ok((StatusCode::from_u16(status)?, "as told\n").into_response());
    }
    let done = state.effects.apply(Order { key, ce_id, body: body.to_vec() }, now_ms()?).await?;
    tokio::time::sleep(turn.delay_after).await;
    Ok(match done {
        Done::Effected => StatusCode::OK.into_response(),
        Done::Duplicate => (StatusCode::OK, [(OUTCOME, "duplicate")]).into_response(),
    })
}

/// `GET /effects`: counts.
pub async fn tell(Shared(state): Shared<Arc<State>>) -> Result<Json<Summary>, Failure> {
    Ok(Json(state.effects.summary().await?))
}

/// `GET /counts`: the same without a list of all keys.
pub async fn count(Shared(state): Shared<Arc<State>>) -> Result<Json<Counts>, Failure> {
    Ok(Json(state.effects.counts(state.in_flight.0.load(Ordering::Relaxed)).await?))
}

/// `POST /behave`: fail or dawdle from now on.
pub async fn behave(Shared(state): Shared<Arc<State>>, Json(wish): Json<Wish>) -> StatusCode {
    state.behaviour.wish(wish);
    StatusCode::NO_CONTENT
}

fn now_ms() -> anyhow::Result<i64> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(i64::try_from(since.as_millis())?)
}
