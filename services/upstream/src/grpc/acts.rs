//! Acts of operators at upstream, each written into the audit: releases, and questions for the bodies of stored messages.
//!
//! A release goes on when the audit cannot be told of it now; a body is not shown then.

use countersign_audit::{Asked, Auditor, End, Unheard};
use countersign_boot::access::only;
use countersign_boot::{Caller, Role};
use countersign_delivery::MessageId;
use countersign_delivery::ports::audit::{Act, ActResult, NewAct};
use countersign_telemetry::names;
use countersign_wire::proto;
use countersign_wire::proto::get_message_request::By as Named;
use tonic::{Request, Status};

use crate::grpc::convert::{self, get_response};
use crate::grpc::outbox;
use crate::grpc::status::of_port;
use crate::lookup::Found;
use crate::upstream::Upstream;

/// The act of a method of ours, where a caller who may not call it at all has asked for one. Who may read messages and not their bodies is
/// told from within.
pub(super) fn of_method(method: &str) -> Option<Act> {
    (method == "ReleaseMessages").then_some(Act::Release)
}

/// Releases; each message is an act of its own.
pub(super) async fn release(
    upstream: &Upstream,
    auditor: &Auditor,
    request: proto::ReleaseMessagesRequest,
) -> Result<proto::ReleaseMessagesResponse, Status> {
    let proto::ReleaseMessagesRequest { ids, by } = request;
    let acts: Vec<NewAct> = targets(&ids).into_iter().map(|target| act(Act::Release, by.clone(), target)).collect();
    let count = acts.len();
    let upstream = upstream.clone();
    let released = async move { outbox::release(&upstream, ids).await };
    let asked = Asked { acts, unheard: Unheard::GoesOn };
    auditor.audited(asked, released, move |outcome| ends(count, outcome)).await?
}

/// Shows a message with its body to whoever may see it.
pub(super) async fn reveal(
    upstream: &Upstream,
    auditor: &Auditor,
    request: Request<proto::GetMessageRequest>,
) -> Result<proto::GetMessageResponse, Status> {
    let (may, caller) = (only(&request, Role::Operator, "with_body"), Caller::of(request.extensions()));
    let proto::GetMessageRequest { by: named, operator, .. } = request.into_inner();
    let act = act(Act::RevealMessage, caller.signs(operator), target(named.as_ref()));
    if let Err(refused) = may {
        auditor.refuse(&act, Role::Operator);
        return Err(refused);
    }
    let upstream = upstream.clone();
    let shown = async move {
        let found = upstream.find(&convert::by(named)?).await.map_err(|error| of_port(&error))?;
        upstream.with_body(found.ok_or_else(convert::no_such_message)?).await.map_err(Status::failed_precondition)
    };
    let asked = Asked { acts: vec![act.clone()], unheard: Unheard::IsRefused };
    let shown = auditor.audited(asked, shown, |shown| vec![end_of(shown)]).await.unwrap_or_else(|why| Err(why.into()));
    note(&act, &shown);
    shown.map(|found| get_response(found, true))
}

fn act(act: Act, by: String, target: String) -> NewAct {
    NewAct { by, act, target, subscription: String::new(), reason: String::new() }
}

/// What a release is about: each message, or how many it would have been.
fn targets(ids: &[String]) -> Vec<String> {
    if ids.is_empty() || ids.len() > outbox::MAX_RELEASED {
        return vec![format!("{} messages", ids.len())];
    }
    ids.iter().map(|id| uniform(id)).collect()
}

/// What is asked for, as it is named.
fn target(named: Option<&Named>) -> String {
    match named {
        Some(Named::Id(id)) => uniform(id),
        Some(Named::IdempotencyKey(key)) => format!("key {key}"),
        None => String::new(),
    }
}

/// An id in its one form, where it is one.
fn uniform(id: &str) -> String {
    MessageId::parse(id).map_or_else(|_| id.to_owned(), |id| id.to_string())
}

/// The end of each of so many acts.
fn ends(acts: usize, outcome: &Result<proto::ReleaseMessagesResponse, Status>) -> Vec<End> {
    match outcome {
        Ok(answer) => answer.results.iter().map(released).collect(),
        Err(status) => vec![End::not_done(status); acts],
    }
}

fn released(result: &proto::ReleaseResult) -> End {
    match result.state() {
        proto::ReleaseState::Released => End::done(String::new()),
        _ => End { result: ActResult::Refused, detail: result.detail.clone(), target: None },
    }
}

/// A message that was asked for by its key is known by its id now.
fn end_of(shown: &Result<Found, Status>) -> End {
    match shown {
        Ok(Found { stored, .. }) => {
            let (id, bytes) = (stored.message.id, stored.message.body.len());
            End { target: Some(id.to_string()), ..End::done(format!("{bytes} bytes shown")) }
        }
        Err(status) => End::not_done(status),
    }
}

fn note(act: &NewAct, shown: &Result<Found, Status>) {
    let End { result, detail, .. } = end_of(shown);
    let NewAct { by, target, act, .. } = act;
    let (act, result) = (act.as_str(), result.as_str());
    metrics::counter!(names::OPERATOR_ACTS_TOTAL, "act" => act, "result" => result).increment(1);
    tracing::info!(act, target, by, result, detail, "an operator asks for the body of a message");
}

#[cfg(test)]
mod tests;
