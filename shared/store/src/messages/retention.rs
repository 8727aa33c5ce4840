//! Deleting what is settled and old, a page of one incarnation at a time.
//!
//! No index serves it: a page is the lowest seqs of an incarnation, which the primary key has in order, and seqs grow with age. So the
//! INSERT of a message pays nothing for it, and a page without anything old ends the search.
//!
//! The list of incarnations is read first. It may be stale by the time of a DELETE, which is harmless: what was settled stays settled.

use countersign_delivery::id::{IncarnationId, UpstreamName};
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::messages::Expiry;

use crate::inbox::least_id;
use crate::sql::{Sql, signed, take};

const DELETING: &str = "deleting expired messages";

/// An incarnation, as far as it may be deleted from.
struct Incarnation {
    id: IncarnationId,
    closed: bool,
    /// Everything below is settled.
    watermark: i64,
}

/// Deletes up to `limit` rows, oldest incarnations first; returns how many.
pub(super) async fn delete_expired(sql: &Sql, upstream: &UpstreamName, expiry: Expiry, limit: u32) -> Result<u64, PortError> {
    let mut left = u64::from(limit);
    for incarnation in incarnations(sql, upstream).await? {
        if left == 0 {
            break;
        }
        let deleted = delete_page(sql, &incarnation, expiry, left).await?;
        left = left.saturating_sub(deleted);
        if incarnation.closed {
            delete_if_empty(sql, incarnation.id).await?;
        }
    }
    Ok(u64::from(limit) - left)
}

async fn incarnations(sql: &Sql, upstream: &UpstreamName) -> Result<Vec<Incarnation>, PortError> {
    let query = "SELECT i.id, i.state, h.watermark FROM countersign_incarnation AS i \
                 JOIN countersign_heartbeat AS h ON h.incarnation = i.id WHERE i.upstream = $1 ORDER BY i.id";
    let rows = sql.read(DELETING, query, vec![upstream.as_str().into()]).await?;
    let read = |row| {
        let closed = take::<String>(row, "state")? == "closed";
        let watermark = if closed { i64::MAX } else { take(row, "watermark")? };
        Ok(Incarnation { id: IncarnationId(take(row, "id")?), closed, watermark })
    };
    rows.iter().map(read).collect()
}

/// Deletes what is old among the `limit` lowest rows: one range of the primary key. Replicas that delete the same rows meet them in the same
/// order, and the later one finds them gone.
async fn delete_page(sql: &Sql, of: &Incarnation, expiry: Expiry, limit: u64) -> Result<u64, PortError> {
    let tombstones = if of.closed { "" } else { "AND m.id IS NOT NULL" };
    // What the broker has not confirmed must neither go nor fill the page.
    let confirmed = "AND (m.status IS NULL OR m.status = 1)";
    let before = expiry.before();
    let values =
        vec![of.id.0.into(), of.watermark.into(), before.as_millis().into(), signed(limit).into(), least_id(before).into()];
    // A row that does not say when it was sent was sent when its id was minted.
    let old = "(m.sent_at < $3 OR (m.sent_at IS NULL AND m.id < $5))";
    let statement = format!(
        "DELETE FROM countersign_message AS m WHERE m.incarnation = $1 AND {old} {tombstones} {confirmed} AND m.seq <= \
         (SELECT MAX(p.seq) FROM (SELECT m.seq, {old} AS old FROM countersign_message AS m \
          WHERE m.incarnation = $1 AND m.seq < $2 {tombstones} {confirmed} ORDER BY m.seq LIMIT $4) AS p WHERE p.old)"
    );
    Ok(sql.write(DELETING, &statement, values).await?.rows_affected())
}

/// Deletes a closed incarnation without rows, with its heartbeat, if another one's tells of a later promise. Whoever still holds its name
/// finds nothing to insert under, to adopt or to beat for.
async fn delete_if_empty(sql: &Sql, incarnation: IncarnationId) -> Result<(), PortError> {
    let row = "SELECT 1 FROM countersign_message AS m WHERE m.incarnation = $1 LIMIT 1";
    if !sql.read(DELETING, row, vec![incarnation.0.into()]).await?.is_empty() {
        return Ok(());
    }
    let tx = sql.begin(DELETING).await?;
    let statement = "DELETE FROM countersign_incarnation WHERE id = $1 AND state = 'closed' \
                     AND NOT EXISTS (SELECT 1 FROM countersign_message AS m WHERE m.incarnation = $1) \
                     AND EXISTS (SELECT 1 FROM countersign_incarnation AS o \
                       JOIN countersign_heartbeat AS later ON later.incarnation = o.id \
                       JOIN countersign_heartbeat AS own ON own.incarnation = $1 \
                       WHERE o.upstream = countersign_incarnation.upstream \
                       AND (later.settled_until, o.id) > (own.settled_until, own.incarnation))";
    if tx.run(statement, vec![incarnation.0.into()]).await?.rows_affected() == 0 {
        return tx.rollback().await;
    }
    tx.run("DELETE FROM countersign_heartbeat WHERE incarnation = $1", vec![incarnation.0.into()]).await?;
    tx.commit().await
}
