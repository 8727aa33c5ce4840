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

use crate::messages::label::{Label, Labels};
use crate::rows::Rows;
use crate::sql::{Sql, signed, take, unreadable, unsigned};

/// What [`stored`] reads.
pub(super) const COLUMNS: &str = "m.incarnation, m.seq, m.id, m.sent_at, m.fingerprint, m.idempotency_key, m.required, \
     m.exchange, m.routing_key, m.type, m.content_type, m.label, m.headers, m.traceparent, m.tracestate, m.body, m.status";

/// The column that conflicts.
pub(super) const KEY: &str = "idempotency_key";

/// The column that names a label.
pub(super) const LABEL: &str = "label";

/// How many columns [`rows`] makes at most.
pub(super) const WIDTH: usize = 19;

/// No name may hold it, so it can stand between names.
const SEPARATOR: char = ',';

/// A batch as rows; those of mode `outbox` are due at `due_at`. What none of them has is left out.
pub(super) fn rows(
    incarnation: IncarnationId,
    batch: &[&Numbered],
    labels: &Labels,
    due_at: Timestamp,
) -> Result<Rows, PortError> {
    let headers = batch.iter().map(|row| headers_to_text(&row.message)).collect::<Result<Vec<_>, _>>()?;
    let messages = || batch.iter().map(|row| &row.message);
    let trace = |part: fn(&TraceContext) -> Option<String>| messages().map(move |m| m.trace.as_ref().and_then(part));
    let sent_at = |row: &&Numbered| (!says_its_place(incarnation, row)).then(|| row.message.sent_at.as_millis());
    let (numbers, own): (Vec<_>, Vec<_>) = messages().map(|message| named_or_own(labels, message)).unzip();
    let own_text = |part: fn(&Label) -> &String| own.iter().map(move |own| own.as_ref().map(|label| part(label).clone()));
    let of_outbox = |value: i64| messages().map(move |m| (m.mode == Mode::Outbox).then_some(value));
    Ok(Rows::default()
        .uuids("incarnation", batch.iter().map(|_| incarnation.0))
        .ints("seq", batch.iter().map(|row| signed(row.seq.0)))
        .uuids("id", messages().map(|m| m.id.uuid()))
        .ints("sent_at", batch.iter().map(sent_at))
        .bytes("fingerprint", messages().map(|m| m.fingerprint.as_bytes().to_vec()))
        .texts(KEY, messages().map(|m| m.idempotency_key.as_ref().map(|key| key.as_str().to_owned())))
        .ints(LABEL, numbers)
        .texts("required", own_text(|label| &label.required))
        .texts("exchange", own_text(|label| &label.exchange))
        .texts("routing_key", own_text(|label| &label.routing_key))
        .texts("type", own_text(|label| &label.kind))
        .texts("content_type", own_text(|label| &label.content_type))
        .texts("headers", headers)
        .texts("traceparent", trace(|trace| Some(trace.traceparent.clone())))
        .texts("tracestate", trace(|trace| trace.tracestate.clone()))
        .bytes("body", messages().map(|m| m.body.to_vec()))
        .ints("status", of_outbox(Status::Sending.number().into()))
        .ints("tries", of_outbox(0))
        .ints("due_at", of_outbox(due_at.as_millis()))
        .present())
}

/// Whether a row is found by its id without an index on ids, and in the order of time without one on times.
fn says_its_place(incarnation: IncarnationId, row: &Numbered) -> bool {
    let Message { id, sent_at, .. } = row.message;
    sent_at == id.minted_at() && id == MessageId::at(incarnation, row.seq, sent_at)
}

/// The number of a message's label, or else the label.
fn named_or_own(labels: &Labels, message: &Message) -> (Option<i64>, Option<Label>) {
    let label = Label::of(message);
    match labels.number(&label) {
        Some(number) => (Some(number), None),
        None => (None, Some(label)),
    }
}

/// Rows as messages.
pub(super) async fn stored_all(sql: &Sql, labels: &Labels, rows: &[QueryResult]) -> Result<Vec<StoredMessage>, PortError> {
    labels.of_rows(sql, rows).await?;
    rows.iter().map(|row| stored(labels, row)).collect()
}

/// A row as a message; its label must be known.
pub(super) fn stored(labels: &Labels, row: &QueryResult) -> Result<StoredMessage, PortError> {
    let trace = take::<Option<String>>(row, "traceparent")?;
    let tracestate = take(row, "tracestate")?;
    let key = take::<Option<String>>(row, "idempotency_key")?;
    let (id, label) = (message_id(row)?, labels.of_row(row)?);
    let message = Message {
        id,
        fingerprint: fingerprint(row)?,
        idempotency_key: key.map(|key| IdempotencyKey::new(&key)).transpose().map_err(unreadable)?,
        required: split(&label.required)?,
        exchange: label.exchange.clone(),
        routing_key: label.routing_key.clone(),
        kind: label.kind.clone(),
        content_type: label.content_type.clone(),
        headers: headers_from_text(take(row, "headers")?)?,
        body: Bytes::from(take::<Vec<u8>>(row, "body")?),
        sent_at: sent_at(row, id)?,
        trace: trace.map(|traceparent| TraceContext { traceparent, tracestate }),
        mode: if take::<Option<i16>>(row, "status")?.is_some() { Mode::Outbox } else { Mode::Verified },
    };
    Ok(StoredMessage { position: position(row)?, message })
}

/// When a message was sent: when its id was minted, unless its row says otherwise.
pub(super) fn sent_at(row: &QueryResult, id: MessageId) -> Result<Timestamp, PortError> {
    Ok(take::<Option<i64>>(row, "sent_at")?.map_or_else(|| id.minted_at(), Timestamp::from_millis))
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

/// Names as one text.
pub(super) fn join(names: &[SubscriptionName]) -> String {
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
