//! Messages in the order of time: ids begin with the time at which they were minted, so a window is a range of the unique index on them.

use countersign_delivery::id::{MessageId, UpstreamName};
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::stored::{StoredPage, StoredRow};
use countersign_delivery::reconcile::Window;
use countersign_delivery::time::Timestamp;
use countersign_delivery::topology::Mode;
use sea_orm::{QueryResult, Value};

use crate::inbox::least_id;
use crate::messages::row::{fingerprint, message_id, split};
use crate::sql::{Sql, take};

/// Anything else than this is left out of a page; see `countersign_delivery::outbox::Status`.
const CONFIRMED: i16 = 1;

/// One page. Whose a row is and whether it counts is sorted out here and not in the statement, so that a page is never more than `limit` steps
/// along the index.
pub(super) async fn stored(
    sql: &Sql,
    upstream: &UpstreamName,
    minted: Window,
    after: Option<MessageId>,
    limit: u32,
) -> Result<StoredPage, PortError> {
    let limit = limit.max(1);
    let (from, first) = match after {
        Some(after) => (">", after.uuid()),
        None => (">=", least_id(minted.since)),
    };
    let query = format!(
        "SELECT m.id, m.sent_at, m.fingerprint, m.required, m.exchange, m.routing_key, m.status, \
         (SELECT i.upstream FROM countersign_incarnation AS i WHERE i.id = m.incarnation) AS upstream \
         FROM countersign_message AS m WHERE m.id {from} $1 AND m.id < $2 ORDER BY m.id LIMIT $3"
    );
    let values: Vec<Value> = vec![first.into(), least_id(minted.until).into(), i64::from(limit).into()];
    let found = sql.read("reading what is stored", &query, values).await?;
    let full = found.len() == usize::try_from(limit).unwrap_or(usize::MAX);
    let next = found.last().filter(|_| full).map(message_id).transpose()?;
    let rows = found.iter().map(|row| counted(row, upstream)).filter_map(Result::transpose).collect::<Result<_, _>>()?;
    Ok(StoredPage { rows, next })
}

/// A row of this upstream that the broker has confirmed, or will.
fn counted(row: &QueryResult, upstream: &UpstreamName) -> Result<Option<StoredRow>, PortError> {
    let of = take::<Option<String>>(row, "upstream")?;
    let status = take::<Option<i16>>(row, "status")?;
    if of.as_deref() != Some(upstream.as_str()) || status.is_some_and(|status| status != CONFIRMED) {
        return Ok(None);
    }
    Ok(Some(StoredRow {
        id: message_id(row)?,
        fingerprint: fingerprint(row)?,
        sent_at: Timestamp::from_millis(take(row, "sent_at")?),
        required: split(&take::<String>(row, "required")?)?,
        mode: if status.is_some() { Mode::Outbox } else { Mode::Verified },
        exchange: take(row, "exchange")?,
        routing_key: take(row, "routing_key")?,
    }))
}
