//! Rows of mode `outbox` between protobuf and what upstream works with.

use countersign_delivery::MessageId;
use countersign_delivery::outbox::{Entry, Status as RowStatus};
use countersign_delivery::ports::outbox::{OutboxRow, Released};
use countersign_wire::proto;
use tonic::Status;

use crate::grpc::status::of_port;
use crate::upstream::Upstream;

/// Rows of a page, unless the caller says otherwise.
const PAGE: u32 = 100;
/// Most rows of a page.
const MAX_PAGE: u32 = 500;
/// Most ids of a release.
pub(super) const MAX_RELEASED: usize = 500;

pub(super) async fn list(upstream: &Upstream, request: proto::ListOutboxRequest) -> Result<proto::ListOutboxResponse, Status> {
    let proto::ListOutboxRequest { page_size, page_token } = request;
    if page_size > MAX_PAGE {
        return Err(Status::invalid_argument(format!("page_size is {page_size}; at most {MAX_PAGE} are given")));
    }
    let limit = if page_size == 0 { PAGE } else { page_size };
    let after = (!page_token.is_empty()).then(|| MessageId::parse(&page_token)).transpose().map_err(|_| {
        Status::invalid_argument("page_token: not a token of ListOutbox; give the next_page_token of the page before")
    })?;
    let rows = upstream.list_outbox(after, limit).await.map_err(|error| of_port(&error))?;
    let full = rows.len() == usize::try_from(limit).unwrap_or(usize::MAX);
    let last = rows.last().filter(|_| full).map(|row| row.stored.message.id.to_string());
    let rows = rows.into_iter().map(row).collect();
    Ok(proto::ListOutboxResponse { rows, next_page_token: last.unwrap_or_default() })
}

pub(super) async fn release(upstream: &Upstream, texts: Vec<String>) -> Result<proto::ReleaseMessagesResponse, Status> {
    if texts.is_empty() || texts.len() > MAX_RELEASED {
        return Err(Status::invalid_argument(format!("the call has {} ids; 1 to {MAX_RELEASED} are accepted", texts.len())));
    }
    let ids = texts.iter().map(|id| MessageId::parse(id)).collect::<Result<Vec<_>, _>>();
    let ids = ids.map_err(|error| Status::invalid_argument(error.to_string()))?;
    let answers = upstream.release(&ids).await.map_err(|error| of_port(&error))?;
    Ok(proto::ReleaseMessagesResponse {
        results: texts.into_iter().zip(answers).map(|(id, answer)| result(id, answer)).collect(),
    })
}

fn result(id: String, answer: Released) -> proto::ReleaseResult {
    let (state, detail) = match answer {
        Released::Released => (proto::ReleaseState::Released, ""),
        Released::Otherwise(RowStatus::Confirmed) => (proto::ReleaseState::NotFailed, "the broker has confirmed it"),
        Released::Otherwise(_) => (proto::ReleaseState::NotFailed, "it is being published already"),
        Released::Unknown => (proto::ReleaseState::UnknownId, "this upstream has no such message of mode outbox"),
    };
    proto::ReleaseResult { id, state: state.into(), detail: detail.into() }
}

fn row(row: OutboxRow) -> proto::OutboxRow {
    let message = row.stored.message;
    proto::OutboxRow {
        id: message.id.to_string(),
        exchange: message.exchange,
        routing_key: message.routing_key,
        r#type: message.kind,
        sent_at_ms: message.sent_at.as_millis(),
        outbox: Some(entry(row.entry)),
    }
}

pub(super) fn entry(entry: Entry) -> proto::OutboxEntry {
    let status = match entry.status {
        RowStatus::Sending => proto::OutboxStatus::Sending,
        RowStatus::Confirmed => proto::OutboxStatus::Confirmed,
        RowStatus::Failed => proto::OutboxStatus::Failed,
    };
    proto::OutboxEntry {
        status: status.into(),
        tries: entry.tries,
        reason: entry.reason.unwrap_or_default(),
        due_at_ms: if entry.status == RowStatus::Sending { entry.due_at.as_millis() } else { 0 },
    }
}
