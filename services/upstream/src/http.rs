//! The HTTP API: `POST /v1/messages` takes `CloudEvents` 1.0, with the outcomes and refusals of gRPC's `SendMessage` and `SendMessages`.
//!
//! | content type | is |
//! |---|---|
//! | `application/cloudevents+json` | one event, structured mode |
//! | `application/cloudevents-batch+json` | up to 500 events and 4 MiB of messages |
//! | any other | one event, binary mode: headers `ce-…`, the body as it is |
//!
//! `?exchange=…&routing_key=…` says where events go that do not say it themselves ([`event`]). The answer is 202 with id, state, duplicate
//! and fingerprint ([`answer`]), or a problem ([`problem`]).
//!
//! **Invariant:** no word of a payload is logged, and nothing waits without a bound ([`bounds`]).

mod answer;
mod bounds;
mod event;
mod head;
mod problem;

use std::collections::VecDeque;

use axum::Router;
use axum::body::BodyDataStream;
use axum::extract::{Request, State};
use axum::http::header::EXPECT;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Uri};
use axum::response::Response;
use axum::routing::post;
use bytes::Bytes;
use countersign_delivery::TraceContext;
use countersign_telemetry::propagate;
use tracing::{Instrument as _, Span};

use crate::accept::{AnswerWhen, NewMessage};
use crate::config::UpstreamSection;
use crate::http::bounds::Bounds;
use crate::http::head::{Mode, Target};
use crate::http::problem::Problem;
use crate::refusal::Refusal;
use crate::send::{Outcome, stopping};
use crate::trace::accept_span;
use crate::upstream::Upstream;

/// Where messages are sent to.
const PATH: &str = "/v1/messages";

/// The routes of one upstream.
pub(crate) fn router(upstream: Upstream, section: &UpstreamSection) -> Router {
    Router::new()
        .route(PATH, post(take).fallback(other_method))
        .fallback(other_path)
        .with_state(Api { upstream, bounds: Bounds::new(section) })
}

/// The API of one upstream.
#[derive(Clone, Debug)]
struct Api {
    upstream: Upstream,
    bounds: Bounds,
}

async fn take(State(api): State<Api>, request: Request) -> Response {
    api.take(request).await.unwrap_or_else(|problem| problem.response(api.bounds.retry_ms))
}

async fn other_method(State(api): State<Api>, method: Method) -> Response {
    Problem::method(format!("{method} is not for {PATH}: POST an event")).response(api.bounds.retry_ms)
}

async fn other_path(State(api): State<Api>, uri: Uri) -> Response {
    let path: String = uri.path().chars().take(80).collect();
    Problem::path(format!("there is no {path:?}: POST events to {PATH}")).response(api.bounds.retry_ms)
}

impl Api {
    async fn take(&self, request: Request) -> Result<Response, Problem> {
        let _place = self.bounds.enter()?;
        if self.upstream.is_stopping() {
            return Err(stopping().into());
        }
        let (head, body) = request.into_parts();
        let mut body = body.into_data_stream();
        let taken = self.take_event(&head, &mut body).await;
        // Whoever expects 100 has not sent it yet; who comes too often shall not cost more.
        if taken.as_ref().is_err_and(|problem| !problem.is_transient()) && !head.headers.contains_key(EXPECT) {
            self.bounds.discard(&mut body).await;
        }
        taken
    }

    async fn take_event(&self, head: &Parts, body: &mut BodyDataStream) -> Result<Response, Problem> {
        let mode = Mode::of(&head.headers)?;
        let target = Target::of(&head.uri)?;
        let key = head::key(&head.headers, mode)?;
        let read = self.bounds.read(body, mode).await?;
        let event = match mode {
            Mode::Binary => event::binary::read(&head.headers, read.body.clone())?,
            Mode::Structured => event::structured::read(&read.body)?,
            Mode::Batch => return self.take_batch(&read.body, &target, &head.headers).await,
        };
        let message = event.into_message(&target, key)?;
        let (span, wishes) = wishes(&head.headers, 1);
        answer::single(&self.upstream.send(wishes.with(message)).instrument(span).await)
    }

    async fn take_batch(&self, json: &Bytes, target: &Target, headers: &HeaderMap) -> Result<Response, Problem> {
        let (events, count) = event::structured::split(json)?;
        Upstream::batch_fits(count, 0)?;
        let (span, wishes) = wishes(headers, count);
        let judged: Vec<Result<NewMessage, Refusal>> = events
            .into_iter()
            .map(|event| event::structured::read(event.get().as_bytes())?.into_message(target, None))
            .map(|judged| judged.map(|message| wishes.with(message)))
            .collect();
        let (mut sound, mut refused) = (Vec::new(), Vec::new());
        for (index, judged) in judged.into_iter().enumerate() {
            match judged {
                Ok(message) => sound.push(message),
                Err(refusal) => refused.push((index, refusal)),
            }
        }
        let sent = if sound.is_empty() { Vec::new() } else { self.upstream.send_batch(sound).instrument(span).await? };
        answer::batch(&in_order(sent, refused))
    }
}

/// Outcomes of the events that were sent, with the refused ones put back into their places.
fn in_order(sent: Vec<Outcome>, refused: Vec<(usize, Refusal)>) -> Vec<Outcome> {
    let mut outcomes = VecDeque::from(sent);
    let mut all = Vec::with_capacity(outcomes.len() + refused.len());
    for (index, refusal) in refused {
        while all.len() < index
            && let Some(outcome) = outcomes.pop_front()
        {
            all.push(outcome);
        }
        all.push(Outcome::Refused(refusal));
    }
    all.extend(outcomes);
    all
}

/// What a request's headers say of all of its messages.
struct Wishes {
    /// For messages that name none: the caller's, unless the request's span already carries it on.
    trace: Option<TraceContext>,
    answer_when: AnswerWhen,
}

/// The span of a request, and what its messages share.
fn wishes(headers: &HeaderMap, count: usize) -> (Span, Wishes) {
    let caller = head::call_trace(headers);
    let span = accept_span(caller.as_ref(), count);
    let trace = caller.filter(|_| propagate::of(&span).is_none());
    (span, Wishes { trace, answer_when: head::answer_when(headers) })
}

impl Wishes {
    fn with(&self, message: NewMessage) -> NewMessage {
        NewMessage { trace: message.trace.or_else(|| self.trace.clone()), answer_when: self.answer_when, ..message }
    }
}

#[cfg(test)]
mod tests;
