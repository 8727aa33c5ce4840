//! Delivery by HTTP: the handler in any other language. `CloudEvents` in binary mode, the body untouched.
//!
//! | sent | is |
//! |---|---|
//! | `ce-id` | the message's id |
//! | `Idempotency-Key` | the message's id; of a further effect that an operator allowed, `<id>/<effect epoch>` |
//! | `ce-source`, `ce-type`, `ce-time`, `ce-specversion` | upstream's name, the business type, when it was accepted, `1.0` |
//! | `Content-Type` | the message's |
//! | `ce-<name>` | a header of the caller's whose name is a legal extension name (1 to 20 of `a-z0-9`) and no attribute that identifies the message or says how to read it; `subject` and `dataschema` describe the content, so they are the caller's |
//! | `countersign-header-<name>` | any other header of the caller's, its name percent-encoded: it can never pass for one of the connection's own, such as `Host` or `Authorization` |
//! | `countersign-subscription`, `-attempt`, `-epoch`, `-fingerprint`, `-exchange`, `-routing-key` | as received |
//! | `traceparent`, `tracestate` | the trace of this delivery |
//!
//! Values are percent-encoded where HTTP or `CloudEvents` demands it. The answer: 2xx is done (with `Countersign-Outcome: duplicate`: it had been
//! before); 400, 413, 415, 422 reject; everything else, redirects and time-outs included, is tried again.

mod headers;

use std::time::Duration;

use async_trait::async_trait;
use countersign_boot::Secret;
use reqwest::{Client, Response, Url, redirect};
use tokio::time::{Instant, timeout};

use crate::handler::{Event, Failure, Handled, Handler, HandlerContext};

/// Most of an answer's body that is read, bytes: enough for a reason, and to keep the connection for the next message.
const ANSWER_MAX: usize = 64 * 1024;
/// Longest time that an answer's body is waited for: its status is known by then, and nothing hangs on the rest.
const ANSWER_WAIT: Duration = Duration::from_millis(500);
/// Longest time to connect.
const CONNECT: Duration = Duration::from_secs(5);
/// Idle connections are closed after this; shorter than what servers commonly allow, so that none is used while it is being closed.
const IDLE: Duration = Duration::from_secs(20);
/// With this answer header a handler says that it knew the message.
const OUTCOME: &str = "countersign-outcome";

/// Delivers to one endpoint.
pub struct HttpHandler {
    client: Client,
    endpoint: Url,
    timeout: Duration,
}

impl HttpHandler {
    /// A handler behind `endpoint`, with at most `connections` idle connections and `timeout` for a whole call.
    ///
    /// # Errors
    /// A text that does not repeat the address, which may hold a password.
    pub fn new(endpoint: &Secret, timeout: Duration, connections: usize) -> Result<Self, String> {
        let endpoint = Url::parse(endpoint.expose()).map_err(|_| "its endpoint is not an address".to_owned())?;
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT.min(timeout))
            .timeout(timeout)
            .pool_max_idle_per_host(connections)
            .pool_idle_timeout(IDLE)
            .tcp_nodelay(true)
            .no_proxy()
            .build()
            .map_err(|error| format!("no HTTP client can be made: {error}"))?;
        Ok(Self { client, endpoint, timeout })
    }
}

#[async_trait]
impl Handler for HttpHandler {
    async fn handle(&self, message: &Event, context: &HandlerContext) -> Result<Handled, Failure> {
        let request = self.client.post(self.endpoint.clone()).headers(headers::of(message, context)).body(message.body.clone());
        let started = Instant::now();
        // Without its address: that may hold a password.
        let answer = request.send().await.map_err(|error| Failure::retry(words(&error.without_url())))?;
        let status = answer.status().as_u16();
        let known = answer.headers().get(OUTCOME).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"duplicate"));
        // Whoever calls has the same time-out: what the status says must not be lost to it.
        let left = self.timeout.saturating_sub(started.elapsed());
        let said = beginning(answer, ANSWER_WAIT.min(left / 2)).await;
        judge(status, known, &said)
    }
}

/// What an answer means.
fn judge(status: u16, known: bool, said: &str) -> Result<Handled, Failure> {
    let detail = || if said.is_empty() { format!("HTTP {status}") } else { format!("HTTP {status}: {said}") };
    match status {
        200..=299 if known => Ok(Handled::Duplicate),
        200..=299 => Ok(Handled::Done),
        400 | 413 | 415 | 422 => Err(Failure::Reject { detail: detail() }),
        _ => Err(Failure::Retry { detail: detail() }),
    }
}

/// The beginning of an answer's body as printable text. What is longer than the bound, or slower, is left unread, which costs the
/// connection.
async fn beginning(mut answer: Response, wait: Duration) -> String {
    let mut read = Vec::new();
    let reading = async {
        while let Ok(Some(chunk)) = answer.chunk().await {
            read.extend_from_slice(&chunk);
            if read.len() > ANSWER_MAX {
                break;
            }
        }
    };
    // In time or not: what has come by then is enough.
    let _ = timeout(wait, reading).await;
    let text = String::from_utf8_lossy(&read);
    let one_line: String = text.chars().take(crate::receive::DETAIL_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    one_line.trim().to_owned()
}

fn words(error: &reqwest::Error) -> String {
    countersign_telemetry::with_sources(error)
}

#[cfg(test)]
mod tests;
