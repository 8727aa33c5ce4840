//! What a request says before its body: mode, target, key, trace. Pure.

use axum::extract::Query;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, Uri};
use countersign_delivery::{IdempotencyKey, TraceContext};
use countersign_wire::names;

use crate::accept::AnswerWhen;
use crate::http::problem::Problem;
use crate::refusal::Refusal;
use crate::trace::trace_of;
use crate::upstream::Upstream;

/// One event, the whole of it as JSON.
const STRUCTURED: &str = "application/cloudevents+json";
/// Many of them.
const BATCH: &str = "application/cloudevents-batch+json";
/// Leads every media type that carries events.
const EVENTS: &str = "application/cloudevents";
/// What attributes and JSON itself add to the data of one event, bytes.
const ENVELOPE_BYTES: usize = 128 * 1024;
/// What the query may name.
const PARAMETERS: [&str; 2] = ["exchange", "routing_key"];
const IDEMPOTENCY_KEY: &str = "idempotency-key";
const PREFER: &str = "prefer";
const RESPOND_ASYNC: &str = "respond-async";

/// How events travel in HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// One, its attributes as headers.
    Binary,
    /// One, as JSON.
    Structured,
    /// Up to [`Upstream::MAX_BATCH_MESSAGES`], as JSON.
    Batch,
}

impl Mode {
    /// The mode by Content-Type.
    ///
    /// # Errors
    /// 415 for a compressed body, for events in another format, and for JSON in another encoding than UTF-8.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        if let Some(encoding) =
            headers.get_all(CONTENT_ENCODING).iter().find(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"))
        {
            let why = format!("Content-Encoding {encoding:?} is not read: send the body as it is");
            return Err(Problem::unsupported(why));
        }
        let mut types = headers.get_all(CONTENT_TYPE).iter();
        let text = types.next().and_then(|value| value.to_str().ok()).unwrap_or_default().to_ascii_lowercase();
        if types.next().is_some() {
            return Err(Refusal::Invalid("header Content-Type comes twice: send it once".into()).into());
        }
        let mut parts = text.split(';').map(str::trim);
        let mode = match parts.next().unwrap_or_default() {
            STRUCTURED => Self::Structured,
            BATCH => Self::Batch,
            other if other.starts_with(EVENTS) => {
                let why = format!("content type {other:?} is not read: send {STRUCTURED}, {BATCH}, or the event in binary mode");
                return Err(Problem::unsupported(why));
            }
            _ => return Ok(Self::Binary),
        };
        let charset = parts.find_map(|part| part.strip_prefix("charset=")).map(|charset| charset.trim_matches('"'));
        match charset {
            None | Some("utf-8" | "us-ascii") => Ok(mode),
            Some(other) => Err(Problem::unsupported(format!("charset {other:?} is not read: send UTF-8"))),
        }
    }

    /// Most bytes of a request's body, and what that bound is for people.
    pub(super) fn limit(self, max_body_bytes: usize) -> (usize, &'static str) {
        match self {
            Self::Binary => (max_body_bytes, "max_body_bytes"),
            Self::Structured => (2 * max_body_bytes + ENVELOPE_BYTES, "twice max_body_bytes and 128 KiB"),
            Self::Batch => (3 * Upstream::MAX_BATCH_BYTES, "three times what a batch may have in messages"),
        }
    }
}

/// Where events go that do not say so themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) exchange: Option<String>,
    pub(super) routing_key: Option<String>,
}

impl Target {
    /// Reads the query.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] for a parameter that is unknown or comes twice.
    pub(super) fn of(uri: &Uri) -> Result<Self, Refusal> {
        let known = PARAMETERS.join(" and ");
        let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|_| Refusal::Invalid(format!("the query cannot be read: write {known} as name=value")))?;
        let mut target = Self::default();
        for (name, value) in pairs.0 {
            let place = match name.as_str() {
                "exchange" => &mut target.exchange,
                "routing_key" => &mut target.routing_key,
                _ => {
                    let name: String = name.chars().take(80).collect();
                    return Err(Refusal::Invalid(format!("query parameter {name:?} is not known: {known} are")));
                }
            };
            if place.replace(value).is_some() {
                return Err(Refusal::Invalid(format!("query parameter {name} comes twice: send it once")));
            }
        }
        Ok(target)
    }
}

/// The header Idempotency-Key: a plain text, or a quoted one (RFC 9651, string).
///
/// # Errors
/// [`Refusal::Invalid`]: it is malformed or too long, comes twice, or is meant for a whole batch.
pub(super) fn key(headers: &HeaderMap, mode: Mode) -> Result<Option<String>, Refusal> {
    let invalid = |why: &str| Err(Refusal::Invalid(format!("header Idempotency-Key {why}")));
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return invalid("comes twice: send it once");
    }
    if mode == Mode::Batch {
        return invalid("is for one event: leave it out, each event of a batch has its own source and id");
    }
    let Ok(text) = std::str::from_utf8(value.as_bytes()) else { return invalid("is not UTF-8") };
    let key = match text.strip_prefix('"') {
        None => text.to_owned(),
        Some(quoted) => match unquoted(quoted) {
            Some(key) => key,
            None => {
                return invalid(
                    "begins with a quotation mark and is no quoted string: end it with one, and write \\\" and \\\\ inside",
                );
            }
        },
    };
    match key.len() {
        0 => invalid("is empty: leave it out, or name the event"),
        bytes if bytes > IdempotencyKey::MAX_BYTES => {
            invalid(&format!("has {bytes} bytes; at most {} are accepted", IdempotencyKey::MAX_BYTES))
        }
        _ => Ok(Some(key)),
    }
}

/// The inside of a quoted string whose first mark is taken off; none when it is not one to its very end.
fn unquoted(quoted: &str) -> Option<String> {
    let (mut plain, mut letters) = (String::with_capacity(quoted.len()), quoted.chars());
    loop {
        match letters.next()? {
            '"' => return letters.as_str().is_empty().then_some(plain),
            '\\' => plain.push(letters.next().filter(|letter| matches!(letter, '"' | '\\'))?),
            letter => plain.push(letter),
        }
    }
}

/// The header Prefer (RFC 7240): `respond-async` asks not to be kept waiting for the broker. Other preferences are for others.
pub(super) fn answer_when(headers: &HeaderMap) -> AnswerWhen {
    let preferences = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let mut names = preferences.map(|preference| preference.split(';').next().unwrap_or_default().trim());
    if names.any(|name| name.eq_ignore_ascii_case(RESPOND_ASYNC)) { AnswerWhen::Committed } else { AnswerWhen::Confirmed }
}

/// The trace that a request carries.
pub(super) fn call_trace(headers: &HeaderMap) -> Option<TraceContext> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    trace_of(text(names::TRACEPARENT)?, text(names::TRACESTATE).unwrap_or_default())
}

#[cfg(test)]
mod tests;
