//! Refusals as RFC 9457 has them.
//!
//! | refusal | status | `type` `urn:countersign:` | `code` |
//! |---|---|---|---|
//! | invalid | 400 | `invalid` | `INVALID_ARGUMENT` |
//! | body or batch over its limit | 413 | `too-large` | `INVALID_ARGUMENT` |
//! | media type, charset or encoding that is not read | 415 | `unsupported-media-type` | `INVALID_ARGUMENT` |
//! | the key belongs to another content | 409 | `conflict` | `ALREADY_EXISTS` |
//! | nobody would get it | 422 | `no-subscription` | `FAILED_PRECONDITION` |
//! | mode `confirmed`: no queue took it | 422 | `returned` | `FAILED_PRECONDITION` |
//! | mode `confirmed`: the broker did not answer | 503, `Retry-After` | `unconfirmed` | `UNAVAILABLE` |
//! | a bound is reached | 429, `Retry-After` | `exhausted` | `RESOURCE_EXHAUSTED` |
//! | a queue is full, and the route says `on_full = "reject"` | 429, `Retry-After` | `full` | `RESOURCE_EXHAUSTED` |
//! | nothing was promised | 503, `Retry-After` | `unavailable` | `UNAVAILABLE` |
//! | the database refuses for good | 500 | `broken` | `INTERNAL` |
//! | the body takes too long | 408 | `timeout` | `DEADLINE_EXCEEDED` |
//! | another method, another path | 405, 404 | `method-not-allowed`, `not-found` | `UNIMPLEMENTED` |
//! | a batch that was not accepted as a whole | see [`super::answer`] | `batch-refused` | that of the refusal its status is of |
//!
//! `code` is the name of the code that gRPC answers.

use axum::http::header::{ACCEPT_ENCODING, ALLOW, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use tonic::Code;

use crate::grpc::status::code;
use crate::refusal::Refusal;

const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");

/// A refusal on its way to the caller.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Problem {
    #[serde(rename = "type")]
    urn: &'static str,
    title: &'static str,
    #[serde(serialize_with = "number")]
    status: StatusCode,
    detail: String,
    code: &'static str,
    /// What became of each event of a batch.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) results: Vec<Value>,
    /// When to come back, where the refusal itself says it.
    #[serde(skip)]
    retry_ms: Option<u64>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands references over")]
fn number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::from(&refusal)
    }
}

impl From<&Refusal> for Problem {
    fn from(refusal: &Refusal) -> Self {
        let (status, urn, title) = match refusal {
            Refusal::Invalid(_) => (StatusCode::BAD_REQUEST, "urn:countersign:invalid", "Invalid event"),
            Refusal::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "urn:countersign:too-large", "Too large"),
            Refusal::Conflict { .. } => (StatusCode::CONFLICT, "urn:countersign:conflict", "Another content under this key"),
            Refusal::NoSubscription { .. } => {
                (StatusCode::UNPROCESSABLE_ENTITY, "urn:countersign:no-subscription", "Nobody would get it")
            }
            Refusal::Returned { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "urn:countersign:returned", "No queue took it"),
            Refusal::Unconfirmed(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "urn:countersign:unconfirmed", "The broker did not answer")
            }
            Refusal::Exhausted { .. } => (StatusCode::TOO_MANY_REQUESTS, "urn:countersign:exhausted", "A bound is reached"),
            Refusal::Full { .. } => (StatusCode::TOO_MANY_REQUESTS, "urn:countersign:full", "A queue is full"),
            Refusal::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "urn:countersign:unavailable", "Not available now"),
            Refusal::Broken(_) => (StatusCode::INTERNAL_SERVER_ERROR, "urn:countersign:broken", "The database refuses"),
        };
        Self { retry_ms: refusal.retry_ms(), ..Self::new(status, urn, title, code(refusal), refusal.to_string()) }
    }
}

impl Problem {
    fn new(status: StatusCode, urn: &'static str, title: &'static str, code: Code, detail: String) -> Self {
        Self { urn, title, status, detail, code: name(code), results: Vec::new(), retry_ms: None }
    }

    /// A body that cannot be read, whatever is in it.
    pub(super) fn unsupported(detail: String) -> Self {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Self::new(status, "urn:countersign:unsupported-media-type", "Not read in this form", Code::InvalidArgument, detail)
    }

    /// A body that did not arrive in time.
    pub(super) fn timeout(detail: String) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "urn:countersign:timeout", "Too slow", Code::DeadlineExceeded, detail)
    }

    /// A method that the path does not have.
    pub(super) fn method(detail: String) -> Self {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Self::new(status, "urn:countersign:method-not-allowed", "Method not allowed", Code::Unimplemented, detail)
    }

    /// A path that is not there.
    pub(super) fn path(detail: String) -> Self {
        Self::new(StatusCode::NOT_FOUND, "urn:countersign:not-found", "Not found", Code::Unimplemented, detail)
    }

    /// A batch of which not every event was accepted: of one of its problems, with all results.
    pub(super) fn batch(self, status: StatusCode, detail: String, results: Vec<Value>) -> Self {
        Self { urn: "urn:countersign:batch-refused", title: "Not every event was accepted", status, detail, results, ..self }
    }

    /// Whether the same request may succeed later.
    pub(super) fn is_transient(&self) -> bool {
        let now = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
        now.contains(&self.status)
    }

    pub(super) const fn status(&self) -> StatusCode {
        self.status
    }

    /// As an answer; `retry_ms` is when to come back if the refusal is for now and does not say it itself.
    pub(super) fn response(&self, retry_ms: u64) -> Response {
        // A struct of texts and values; should it fail all the same, the status says enough.
        let body = serde_json::to_vec(self).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, MEDIA_TYPE);
        match self.status {
            StatusCode::METHOD_NOT_ALLOWED => drop(headers.insert(ALLOW, HeaderValue::from_static("POST"))),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => drop(headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"))),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                let seconds = self.retry_ms.unwrap_or(retry_ms).div_ceil(1_000).max(1);
                headers.insert(RETRY_AFTER, seconds.into());
            }
            _ => {}
        }
        response
    }
}

/// The name of a code as the gRPC specification writes it.
const fn name(code: Code) -> &'static str {
    match code {
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::Unavailable => "UNAVAILABLE",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        _ => "UNKNOWN",
    }
}
