//! Between protobuf and what upstream works with.

use bytes::Bytes;
use countersign_delivery::message::EFFECT_EPOCH_MAX;
use countersign_delivery::{Attempt, Fingerprint, IdempotencyKey, MessageId, SubscriptionName, TraceContext};
use countersign_wire::{names, proto};
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::accept::{AnswerWhen, NewMessage};
use crate::grpc::outbox;
use crate::grpc::status::code;
use crate::lookup::{By, Found};
use crate::resend::{Order, Outcome as Resent};
use crate::send::{Accepted, Outcome};
use crate::trace::trace_of;

pub(super) fn new_message(message: proto::NewMessage) -> NewMessage {
    let answer_when = match message.answer_when() {
        proto::AnswerWhen::Committed => AnswerWhen::Committed,
        proto::AnswerWhen::Unspecified | proto::AnswerWhen::Confirmed => AnswerWhen::Confirmed,
    };
    NewMessage {
        exchange: message.exchange,
        routing_key: message.routing_key,
        kind: message.r#type,
        content_type: message.content_type,
        body: message.body,
        headers: message.headers.into_iter().collect(),
        idempotency_key: message.idempotency_key,
        key_is_implied: false,
        fingerprint: message.fingerprint,
        trace: message.trace.and_then(|trace| trace_of(&trace.traceparent, &trace.tracestate)),
        answer_when,
    }
}

/// The trace that a call carries in its metadata.
pub(super) fn call_trace(metadata: &MetadataMap) -> Option<TraceContext> {
    let text = |name: &str| metadata.get(name).and_then(|value| value.to_str().ok());
    trace_of(text(names::TRACEPARENT)?, text(names::TRACESTATE).unwrap_or_default())
}

pub(super) fn accepted(outcome: Outcome) -> Option<proto::Accepted> {
    let (Accepted { id, fingerprint, duplicate }, state) = match outcome {
        Outcome::Confirmed(accepted) => (accepted, proto::SendState::Confirmed),
        Outcome::Committed(accepted) => (accepted, proto::SendState::Committed),
        Outcome::Refused(_) => return None,
    };
    let fingerprint = Bytes::copy_from_slice(fingerprint.as_bytes());
    Some(proto::Accepted { id: id.to_string(), state: state.into(), duplicate, fingerprint })
}

pub(super) fn send_result(outcome: Outcome) -> proto::SendResult {
    use proto::send_result::Result;
    let result = match outcome {
        Outcome::Refused(refusal) => {
            Some(Result::Refused(proto::Refused { code: code(&refusal).into(), message: refusal.to_string() }))
        }
        accepted_outcome => accepted(accepted_outcome).map(Result::Accepted),
    };
    proto::SendResult { result }
}

/// By what a message is looked for.
pub(super) fn by(named: Option<proto::get_message_request::By>) -> Result<By, Status> {
    let invalid = |error: countersign_delivery::id::InvalidId| Status::invalid_argument(error.to_string());
    match named {
        Some(proto::get_message_request::By::Id(id)) => MessageId::parse(&id).map(By::Id).map_err(invalid),
        Some(proto::get_message_request::By::IdempotencyKey(key)) => IdempotencyKey::new(&key).map(By::Key).map_err(invalid),
        None => Err(Status::invalid_argument("name an id or an idempotency_key")),
    }
}

pub(super) fn no_such_message() -> Status {
    Status::not_found("no such message in the database of this upstream, or no longer: see upstream.retention_ms")
}

pub(super) fn get_response(found: Found, with_body: bool) -> proto::GetMessageResponse {
    let message = found.stored.message;
    let mode = if found.entry.is_some() { proto::DeliveryMode::Outbox } else { proto::DeliveryMode::Verified };
    let state = if found.settled { proto::SendState::Confirmed } else { proto::SendState::Committed };
    let trace = message
        .trace
        .map(|trace| proto::TraceContext { traceparent: trace.traceparent, tracestate: trace.tracestate.unwrap_or_default() });
    proto::GetMessageResponse {
        id: message.id.to_string(),
        state: state.into(),
        required: message.required.iter().map(ToString::to_string).collect(),
        sent_at_ms: message.sent_at.as_millis(),
        body_bytes: message.body.len() as u64,
        mode: mode.into(),
        outbox_check: found.entry.is_some() && found.has_check,
        outbox: found.entry.map(outbox::entry),
        message: Some(proto::NewMessage {
            exchange: message.exchange,
            routing_key: message.routing_key,
            r#type: message.kind,
            content_type: message.content_type,
            body: if with_body { message.body } else { Bytes::new() },
            headers: message.headers.into_iter().collect(),
            idempotency_key: message.idempotency_key.map_or_else(String::new, |key| key.as_str().to_owned()),
            fingerprint: Bytes::copy_from_slice(message.fingerprint.as_bytes()),
            trace,
            // How it was asked for is not stored.
            answer_when: proto::AnswerWhen::Unspecified.into(),
        }),
    }
}

pub(super) fn order(order: &proto::ResendOrder) -> Result<Order, Status> {
    let invalid = |error: countersign_delivery::id::InvalidId| Status::invalid_argument(error.to_string());
    let attempt = order.attempt.as_ref().filter(|attempt| attempt.number > 0);
    let attempt = attempt.ok_or_else(|| Status::invalid_argument("attempt is missing, or its number is 0"))?;
    if order.effect_epoch > EFFECT_EPOCH_MAX {
        return Err(Status::invalid_argument(format!(
            "effect_epoch is {}; the largest is {EFFECT_EPOCH_MAX}",
            order.effect_epoch
        )));
    }
    Ok(Order {
        id: MessageId::from_bytes(&order.message_id).map_err(invalid)?,
        attempt: Attempt { epoch: attempt.epoch, number: attempt.number },
        effect_epoch: order.effect_epoch,
        subscriptions: order
            .subscriptions
            .iter()
            .map(|name| SubscriptionName::new(name))
            .collect::<Result<_, _>>()
            .map_err(invalid)?,
        fingerprint: Fingerprint::new(order.fingerprint.to_vec()).map_err(invalid)?,
    })
}

pub(super) fn resend_result(outcome: Resent) -> proto::ResendResult {
    let (state, detail) = match outcome {
        Resent::Resent => (proto::ResendState::Resent, String::new()),
        Resent::NotConfirmed(detail) => (proto::ResendState::NotConfirmed, detail),
        Resent::UnknownId => (
            proto::ResendState::UnknownId,
            "no such message in the database of this upstream, or no longer: see upstream.retention_ms".into(),
        ),
        Resent::Changed => {
            (proto::ResendState::Changed, "stored under another fingerprint, or its source gives another body".into())
        }
        Resent::Gone => (proto::ResendState::Gone, "its body is not stored, and its source has it no more".into()),
    };
    proto::ResendResult { state: state.into(), detail }
}
