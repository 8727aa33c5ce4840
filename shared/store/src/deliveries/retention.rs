//! Deleting what is settled and old, a page at a time.
//!
//! No index serves it: ids are in the order of time, so the lowest keys are the oldest messages, and the walk goes on after the last one it
//! looked at. What it leaves, since it is open or parked, it does not meet again until it is begun anew.

use countersign_delivery::ports::PortError;
use countersign_delivery::ports::deliveries::{Deleted, DeliveryKey};
use countersign_delivery::time::Timestamp;
use sea_orm::Value;
use uuid::Uuid;

use crate::deliveries::row::{key, keys};
use crate::deliveries::shards::{Shard, Shards};
use crate::sql::take;

const DELETING: &str = "deleting settled deliveries";
const SETTLED: &str = "state IN ('done', 'discarded')";

/// See the port.
pub(super) async fn delete_settled(
    shards: &Shards,
    before: Timestamp,
    after: Option<&DeliveryKey>,
    limit: u32,
) -> Result<Deleted, PortError> {
    let mut page = Vec::new();
    for shard in shards.all() {
        page.extend(lowest(shard, before, after, limit).await?);
    }
    page.sort_unstable();
    page.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let last = page.last().map(|(key, _)| key.clone());
    let settled: Vec<DeliveryKey> = page.into_iter().filter(|(_, settled)| *settled).map(|(key, _)| key).collect();
    if settled.is_empty() {
        return Ok(Deleted { rows: 0, last });
    }
    move_on(shards.home(), before).await?;
    let mut rows = 0;
    for part in shards.split(&settled, |key| key.message_id) {
        rows += delete(part.shard, &part.items).await?;
    }
    Ok(Deleted { rows, last })
}

/// The lowest keys of one shard, and whether each is settled.
async fn lowest(
    shard: Shard<'_>,
    before: Timestamp,
    after: Option<&DeliveryKey>,
    limit: u32,
) -> Result<Vec<(DeliveryKey, bool)>, PortError> {
    let start = after.map_or_else(|| (Uuid::nil(), String::new()), |key| (key.message_id.uuid(), key.subscription.to_string()));
    let end = first_minted_at(before);
    let values: Vec<Value> = vec![start.0.into(), start.1.into(), end.into(), i64::from(limit).into()];
    let query = format!(
        "SELECT d.message_id, d.subscription, d.{SETTLED} AS settled FROM countersign_delivery AS d \
         WHERE (d.message_id, d.subscription) > ($1, $2) AND d.message_id < $3 ORDER BY d.message_id, d.subscription LIMIT $4"
    );
    let rows = shard.sql.read(DELETING, &query, values).await?;
    rows.iter().map(|row| Ok((key(row)?, take(row, "settled")?))).collect()
}

/// The lowest id that can have been minted at this time.
fn first_minted_at(time: Timestamp) -> Uuid {
    let millis = u128::try_from(time.as_millis()).unwrap_or_default();
    Uuid::from_u128((millis & 0xffff_ffff_ffff) << 80)
}

/// Says that rows of that age may be gone, before they are.
async fn move_on(home: Shard<'_>, before: Timestamp) -> Result<(), PortError> {
    let statement = "INSERT INTO countersign_retention (what, forgotten_before) VALUES ('deliveries', $1) \
         ON CONFLICT (what) DO UPDATE SET forgotten_before = excluded.forgotten_before \
         WHERE countersign_retention.forgotten_before < excluded.forgotten_before";
    home.sql.write(DELETING, statement, vec![before.as_millis().into()]).await.map(drop)
}

/// Up to which age rows may be gone.
pub(super) async fn forgotten_before(home: Shard<'_>) -> Result<Timestamp, PortError> {
    let query = "SELECT r.forgotten_before FROM countersign_retention AS r WHERE r.what = 'deliveries'";
    let rows = home.sql.read("reading what is forgotten", query, Vec::new()).await?;
    rows.first().map_or(Ok(Timestamp::default()), |row| Ok(Timestamp::from_millis(take(row, "forgotten_before")?)))
}

/// Deletes these if they are settled still, with their histories. On PostgreSQL what somebody else holds is left to a later walk.
async fn delete(shard: Shard<'_>, wanted: &[&DeliveryKey]) -> Result<u64, PortError> {
    let backend = shard.sql.backend;
    let tx = shard.sql.begin(DELETING).await?;
    let (source, values) = keys(wanted.iter().copied()).source(backend);
    let locking = shard.sql.either("ORDER BY d.message_id, d.subscription FOR UPDATE OF d SKIP LOCKED", "");
    let query = format!(
        "SELECT d.message_id, d.subscription FROM {source} CROSS JOIN countersign_delivery AS d \
         WHERE d.message_id = v.message_id AND d.subscription = v.subscription AND d.{SETTLED} {locking}"
    );
    let held = tx.rows(&query, values).await?.iter().map(key).collect::<Result<Vec<_>, _>>()?;
    if held.is_empty() {
        tx.rollback().await?;
        return Ok(0);
    }
    for table in ["countersign_delivery_history", "countersign_delivery"] {
        let (source, values) = keys(held.iter()).source(backend);
        let statement = format!(
            "DELETE FROM {table} WHERE (message_id, subscription) IN (SELECT v.message_id, v.subscription FROM {source})"
        );
        tx.run(&statement, values).await?;
    }
    tx.commit().await?;
    Ok(u64::try_from(held.len()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use countersign_delivery::MessageId;

    use super::*;

    #[test]
    fn an_id_is_below_the_first_of_a_later_millisecond_and_not_below_its_own() {
        let id = MessageId::parse("01890000-0000-7000-8000-000000000001").unwrap();
        assert!(id.uuid() >= first_minted_at(id.minted_at()));
        assert!(id.uuid() < first_minted_at(id.minted_at().plus_millis(1)));
        assert_eq!(first_minted_at(Timestamp::from_millis(-1)), Uuid::nil());
    }
}
