//! What is done: found, recorded and forgotten, a batch at a time.

use countersign_delivery::fingerprint::Fingerprint;
use countersign_delivery::id::SubscriptionName;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::claims::ClaimKey;
use countersign_delivery::time::Timestamp;
use sea_orm::DbBackend;
use uuid::Uuid;

use crate::clock::now_within;
use crate::inbox::row::{self, WIDTH, fingerprint, placed, rows, slot};
use crate::rows::Rows;
use crate::sql::{Sql, signed};

const FORGETTING: &str = "forgetting what was done long ago";

/// Rows of keys. PostgreSQL: by key however small the table is, as in [`super::starts`].
const ON_POSTGRES: &str = "CROSS JOIN LATERAL (SELECT i.fingerprint FROM countersign_inbox AS i \
     WHERE i.subscription = v.of_subscription AND i.message_id = v.of_message_id LIMIT 1) AS i";
const ON_SQLITE: &str = "JOIN countersign_inbox AS i ON i.subscription = v.of_subscription AND i.message_id = v.of_message_id";

/// See [`countersign_delivery::ports::archive::Archive::find`].
pub(super) async fn find(sql: &Sql, keys: &[ClaimKey]) -> Result<Vec<Option<Fingerprint>>, PortError> {
    let mut found = vec![None; keys.len()];
    for part in placed(keys).chunks(Rows::limit(sql.backend, WIDTH)) {
        let (source, values) = rows(part).source(sql.backend);
        let query = format!("SELECT v.place, i.fingerprint FROM {source} {}", sql.either(ON_POSTGRES, ON_SQLITE));
        for row in sql.read("looking up what is done", &query, values).await? {
            *slot(&row, &mut found)? = fingerprint(&row, "fingerprint")?;
        }
    }
    Ok(found)
}

/// See [`countersign_delivery::ports::archive::Archive::record`].
pub(super) async fn record(sql: &Sql, keys: &[ClaimKey]) -> Result<(), PortError> {
    let mut ordered = placed(keys);
    row::by_key(&mut ordered);
    for part in ordered.chunks(Rows::limit(sql.backend, WIDTH)) {
        let (source, values) = rows(part).source(sql.backend);
        let now = now_within(sql.backend);
        let statement = format!(
            "INSERT INTO countersign_inbox (message_id, done_at, subscription, fingerprint) \
             SELECT v.of_message_id, {now}, v.of_subscription, v.of_fingerprint FROM {source} WHERE true \
             ON CONFLICT (subscription, message_id) DO NOTHING"
        );
        sql.write("recording what is done", &statement, values).await?;
    }
    Ok(())
}

/// Deletes what was minted as well as done before `before`, the oldest first, and starts as old as that. At most `limit` rows.
pub(super) async fn forget(sql: &Sql, of: &SubscriptionName, before: Timestamp, limit: u32) -> Result<u64, PortError> {
    let mut deleted = 0;
    for (table, at) in [("countersign_inbox", "done_at"), ("countersign_inbox_start", "started_at")] {
        let left = u64::from(limit).saturating_sub(deleted);
        if left > 0 {
            deleted += delete_page(sql, table, at, (of, before), left).await?;
        }
    }
    Ok(deleted)
}

/// One range of the primary key. Replicas that delete at the same time take other rows (PostgreSQL), or find them gone.
async fn delete_page(
    sql: &Sql,
    table: &str,
    at: &str,
    (of, before): (&SubscriptionName, Timestamp),
    limit: u64,
) -> Result<u64, PortError> {
    let lock = if sql.backend == DbBackend::Sqlite { "" } else { "FOR UPDATE SKIP LOCKED" };
    let statement = format!(
        "DELETE FROM {table} WHERE subscription = $1 AND message_id IN \
         (SELECT p.message_id FROM {table} AS p WHERE p.subscription = $1 AND p.message_id < $2 AND p.{at} < $3 \
          ORDER BY p.message_id LIMIT $4 {lock})"
    );
    let values = vec![of.as_str().into(), least_id(before).into(), before.as_millis().into(), signed(limit).into()];
    Ok(sql.write(FORGETTING, &statement, values).await?.rows_affected())
}

/// Below every id that was minted at `at` or later, above every other: a UUID of version 7 begins with 48 bits of milliseconds.
pub(crate) fn least_id(at: Timestamp) -> Uuid {
    let millis = u128::try_from(at.as_millis()).unwrap_or_default();
    Uuid::from_u128(millis.min((1 << 48) - 1) << 80)
}

#[cfg(test)]
mod tests {
    use countersign_delivery::id::MessageId;

    use super::*;

    #[test]
    fn ids_of_one_millisecond_are_told_from_those_of_the_one_before() {
        let at = Timestamp::from_millis(0x0199_1234_5678);
        let first = MessageId::parse("01991234-5678-7000-8000-000000000000").unwrap();
        let last_before = MessageId::parse("01991234-5677-7fff-bfff-ffffffffffff").unwrap();
        assert_eq!(first.minted_at(), at);
        assert!(least_id(at) < first.uuid() && least_id(at) > last_before.uuid());
        assert!(least_id(Timestamp::from_millis(-1)) < first.uuid(), "a clock before 1970 forgets nothing");
    }
}
