//! Messages in the order of time: ids begin with the time at which they were minted.
//!
//! Nothing is sorted by time for it. Within an incarnation ids ascend with their seqs, so a window is a range of the primary key in each of them,
//! whose ends are searched for by halves; a page is the lowest ids of all these ranges. Rows that say when they were sent have an index on ids,
//! and are one range more: those of an older version are found in it alone, others twice.

use countersign_delivery::id::{MessageId, UpstreamName};
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::stored::{StoredPage, StoredRow};
use countersign_delivery::reconcile::Window;
use countersign_delivery::topology::Mode;
use sea_orm::{QueryResult, Value};
use uuid::Uuid;

use crate::inbox::least_id;
use crate::messages::label::Labels;
use crate::messages::row::{fingerprint, message_id, sent_at, split};
use crate::sql::{Sql, take};

const READING: &str = "reading what is stored";
const COLUMNS: &str = "m.id, m.sent_at, m.fingerprint, m.required, m.exchange, m.routing_key, m.type, m.content_type, m.label, m.status, \
     (SELECT i.upstream FROM countersign_incarnation AS i WHERE i.id = m.incarnation) AS upstream";

/// Anything else than this is left out of a page; see `countersign_delivery::outbox::Status`.
const CONFIRMED: i16 = 1;

/// Where ids of a range begin and end in one incarnation.
struct Span {
    incarnation: Uuid,
    first: i64,
    /// Not in it any more.
    end: i64,
}

/// One page. Whose a row is and whether it counts is sorted out here and not in the statements, so that each of them is never more than `limit`
/// steps along an index.
pub(super) async fn stored(
    sql: &Sql,
    labels: &Labels,
    upstream: &UpstreamName,
    minted: Window,
    after: Option<MessageId>,
    limit: u32,
) -> Result<StoredPage, PortError> {
    let limit = limit.max(1);
    let first = after.map_or_else(|| least_id(minted.since), |after| Uuid::from_u128(after.uuid().as_u128().saturating_add(1)));
    let end = least_id(minted.until);
    let mut found = indexed(sql, first, end, limit).await?;
    for span in spans(sql, upstream, first, end).await? {
        let rows = within(sql, &span, limit).await?;
        found.extend(rows.into_iter().filter(|(id, _)| (first..end).contains(&id.uuid())));
    }
    found.sort_by_key(|(id, _)| *id);
    found.dedup_by_key(|(id, _)| *id);
    found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let full = found.len() == usize::try_from(limit).unwrap_or(usize::MAX);
    let next = found.last().filter(|_| full).map(|(id, _)| *id);
    let found: Vec<QueryResult> = found.into_iter().map(|(_, row)| row).collect();
    labels.of_rows(sql, &found).await?;
    let rows = found.iter().map(|row| counted(row, labels, upstream)).filter_map(Result::transpose).collect::<Result<_, _>>()?;
    Ok(StoredPage { rows, next })
}

/// Rows that say when they were sent.
async fn indexed(sql: &Sql, first: Uuid, end: Uuid, limit: u32) -> Result<Vec<(MessageId, QueryResult)>, PortError> {
    let query = format!(
        "SELECT {COLUMNS} FROM countersign_message AS m \
         WHERE m.sent_at IS NOT NULL AND m.id >= $1 AND m.id < $2 ORDER BY m.id LIMIT $3"
    );
    with_ids(sql.read(READING, &query, vec![first.into(), end.into(), i64::from(limit).into()]).await?)
}

async fn within(sql: &Sql, span: &Span, limit: u32) -> Result<Vec<(MessageId, QueryResult)>, PortError> {
    let query = format!(
        "SELECT {COLUMNS} FROM countersign_message AS m \
         WHERE m.incarnation = $1 AND m.seq >= $2 AND m.seq < $3 AND m.id IS NOT NULL ORDER BY m.seq LIMIT $4"
    );
    let values: Vec<Value> = vec![span.incarnation.into(), span.first.into(), span.end.into(), i64::from(limit).into()];
    with_ids(sql.read(READING, &query, values).await?)
}

fn with_ids(rows: Vec<QueryResult>) -> Result<Vec<(MessageId, QueryResult)>, PortError> {
    rows.into_iter().map(|row| Ok((message_id(&row)?, row))).collect()
}

/// Searches every incarnation of this upstream for the first id of the range and the first one behind it, all at once: in each step the row in
/// the middle tells in which half to go on. Every row below `low` has a lower id than `edge`, none from `high` on has.
async fn spans(sql: &Sql, upstream: &UpstreamName, first: Uuid, end: Uuid) -> Result<Vec<Span>, PortError> {
    let edges = sql.either("(SELECT $1::uuid AS edge UNION ALL SELECT $2::uuid)", "(SELECT $1 AS edge UNION ALL SELECT $2)");
    let is_below = "(SELECT m.id < s.edge FROM countersign_message AS m WHERE m.incarnation = s.incarnation \
         AND m.seq >= (s.low + s.high) / 2 AND m.id IS NOT NULL ORDER BY m.seq LIMIT 1)";
    let query = format!(
        "WITH RECURSIVE search (incarnation, edge, low, high) AS ( \
         SELECT i.id, e.edge, \
           COALESCE((SELECT MIN(m.seq) FROM countersign_message AS m WHERE m.incarnation = i.id), 0), \
           COALESCE((SELECT MAX(m.seq) + 1 FROM countersign_message AS m WHERE m.incarnation = i.id), 0) \
         FROM countersign_incarnation AS i CROSS JOIN {edges} AS e WHERE i.upstream = $3 AND i.tag IS NOT NULL \
         UNION ALL \
         SELECT s.incarnation, s.edge, \
           CASE WHEN {is_below} THEN (s.low + s.high) / 2 + 1 ELSE s.low END, \
           CASE WHEN {is_below} THEN s.high ELSE (s.low + s.high) / 2 END \
         FROM search AS s WHERE s.low < s.high) \
         SELECT s.incarnation, MIN(s.low) AS first, MAX(s.low) AS behind FROM search AS s \
         WHERE s.low >= s.high GROUP BY s.incarnation HAVING MIN(s.low) < MAX(s.low)"
    );
    let values: Vec<Value> = vec![first.into(), end.into(), upstream.as_str().into()];
    let span = |row: &QueryResult| {
        Ok(Span { incarnation: take(row, "incarnation")?, first: take(row, "first")?, end: take(row, "behind")? })
    };
    sql.read(READING, &query, values).await?.iter().map(span).collect()
}

/// A row of this upstream that the broker has confirmed, or will.
fn counted(row: &QueryResult, labels: &Labels, upstream: &UpstreamName) -> Result<Option<StoredRow>, PortError> {
    let of = take::<Option<String>>(row, "upstream")?;
    let status = take::<Option<i16>>(row, "status")?;
    if of.as_deref() != Some(upstream.as_str()) || status.is_some_and(|status| status != CONFIRMED) {
        return Ok(None);
    }
    let (id, label) = (message_id(row)?, labels.of_row(row)?);
    Ok(Some(StoredRow {
        id,
        fingerprint: fingerprint(row)?,
        sent_at: sent_at(row, id)?,
        required: split(&label.required)?,
        mode: if status.is_some() { Mode::Outbox } else { Mode::Verified },
        exchange: label.exchange.clone(),
        routing_key: label.routing_key.clone(),
    }))
}
