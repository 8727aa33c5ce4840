//! A message as a row, and back.

use std::collections::BTreeMap;

use bytes::Bytes;
use countersign_delivery::fingerprint::Fingerprint;
use countersign_delivery::id::{IdempotencyKey, IncarnationId, MessageId, Seq, SubscriptionName};
use countersign_delivery::message::{Message, Position, StoredMessage, TraceContext};
use countersign_delivery::outbox::Status;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::messages::Numbered;
use countersign_delivery::time::Timestamp;
use countersign_delivery::topology::Mode;
use sea_orm::QueryResult;
use uuid::Uuid;

use crate::rows::Rows;
use crate::sql::{signed, take, unreadable, unsigned};

/// What [`stored`] reads.
pub(super) const COLUMNS: &str = "m.incarnation, m.seq, m.id, m.sent_at, m.fingerprint, m.idempotency_key, m.required, \
     m.exchange, m.routing_key, m.type, m.content_type, m.headers, m.traceparent, m.tracestate, m.body, m.status";

/// How many columns [`rows`] makes at most.
pub(super) const WIDTH: usize = 18;

/// No name may hold it, so it can stand between names.
const SEPARATOR: char = ',';

/// A batch as rows; those of mode `outbox` are due at `due_at`. Without any of them the columns of their mode are left out.
pub(super) fn rows(incarnation: IncarnationId, batch: &[&Numbered], due_at: Timestamp) -> Result<Rows, PortError> {
    let headers = batch.iter().map(|row| headers_to_text(&row.message)).collect::<Result<Vec<_>, _>>()?;
    let messages = || batch.iter().map(|row| &row.message);
    let trace = |part: fn(&TraceContext) -> Option<String>| messages().map(move |m| m.trace.as_ref().and_then(part));
    let rows = Rows::default()
        .uuids("incarnation", batch.iter().map(|_| incarnation.0))
        .ints("seq", batch.iter().map(|row| signed(row.seq.0)))
        .uuids("id", messages().map(|m| m.id.uuid()))
        .ints("sent_at", messages().map(|m| m.sent_at.as_millis()))
        .bytes("fingerprint", messages().map(|m| m.fingerprint.as_bytes().to_vec()))
        .texts("idempotency_key", messages().map(|m| m.idempotency_key.as_ref().map(|key| key.as_str().to_owned())))
        .texts("required", messages().map(|m| join(&m.required)))
        .texts("exchange", messages().map(|m| m.exchange.clone()))
        .texts("routing_key", messages().map(|m| m.routing_key.clone()))
        .texts("type", messages().map(|m| m.kind.clone()))
        .texts("content_type", messages().map(|m| m.content_type.clone()))
        .texts("headers", headers)
        .texts("traceparent", trace(|trace| Some(trace.traceparent.clone())))
        .texts("tracestate", trace(|trace| trace.tracestate.clone()))
        .bytes("body", messages().map(|m| m.body.to_vec()));
    if messages().all(|message| message.mode != Mode::Outbox) {
        return Ok(rows);
    }
    let of_outbox = |value: i64| messages().map(move |m| (m.mode == Mode::Outbox).then_some(value));
    Ok(rows
        .ints("status", of_outbox(Status::Sending.number().into()))
        .ints("tries", of_outbox(0))
        .ints("due_at", of_outbox(due_at.as_millis())))
}

/// A row as a message.
pub(super) fn stored(row: &QueryResult) -> Result<StoredMessage, PortError> {
    let trace = take::<Option<String>>(row, "traceparent")?;
    let tracestate = take(row, "tracestate")?;
    let key = take::<Option<String>>(row, "idempotency_key")?;
    let message = Message {
        id: message_id(row)?,
        fingerprint: fingerprint(row)?,
        idempotency_key: key.map(|key| IdempotencyKey::new(&key)).transpose().map_err(unreadable)?,
        required: split(&take::<String>(row, "required")?)?,
        exchange: take(row, "exchange")?,
        routing_key: take(row, "routing_key")?,
        kind: take(row, "type")?,
        content_type: take(row, "content_type")?,
        headers: headers_from_text(take(row, "headers")?)?,
        body: Bytes::from(take::<Vec<u8>>(row, "body")?),
        sent_at: Timestamp::from_millis(take(row, "sent_at")?),
        trace: trace.map(|traceparent| TraceContext { traceparent, tracestate }),
        mode: if take::<Option<i16>>(row, "status")?.is_some() { Mode::Outbox } else { Mode::Verified },
    };
    Ok(StoredMessage { position: position(row)?, message })
}

/// Where a row stands.
pub(super) fn position(row: &QueryResult) -> Result<Position, PortError> {
    Ok(Position { incarnation: IncarnationId(take(row, "incarnation")?), seq: Seq(unsigned(take(row, "seq")?)) })
}

/// Whose row it is.
pub(super) fn message_id(row: &QueryResult) -> Result<MessageId, PortError> {
    MessageId::new(take::<Uuid>(row, "id")?).map_err(unreadable)
}

/// What a row's receipts must carry.
pub(super) fn fingerprint(row: &QueryResult) -> Result<Fingerprint, PortError> {
    Fingerprint::new(take(row, "fingerprint")?).map_err(unreadable)
}

fn join(names: &[SubscriptionName]) -> String {
    let mut text = String::new();
    for name in names {
        if !text.is_empty() {
            text.push(SEPARATOR);
        }
        text.push_str(name.as_str());
    }
    text
}

/// Names as [`rows`] joins them.
pub(super) fn split(text: &str) -> Result<Vec<SubscriptionName>, PortError> {
    let names = text.split(SEPARATOR).filter(|name| !name.is_empty());
    names.map(|name| SubscriptionName::new(name).map_err(unreadable)).collect()
}

fn headers_to_text(message: &Message) -> Result<Option<String>, PortError> {
    if message.headers.is_empty() {
        return Ok(None);
    }
    let text = serde_json::to_string(&message.headers);
    text.map(Some).map_err(|error| PortError::Refused("writing headers", error.into()))
}

fn headers_from_text(text: Option<String>) -> Result<BTreeMap<String, String>, PortError> {
    text.map_or_else(|| Ok(BTreeMap::new()), |text| serde_json::from_str(&text).map_err(unreadable))
}
