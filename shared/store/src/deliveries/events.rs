//! Events that wait for their publication.

use countersign_delivery::id::UpstreamName;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::deliveries::DeliveryKey;
use countersign_delivery::ports::events::{Happening, Recorded, What};
use countersign_delivery::time::Timestamp;
use sea_orm::QueryResult;

use crate::deliveries::row::{key, packed, printable, unpacked};
use crate::deliveries::shards::Shard;
use crate::rows::Rows;
use crate::sql::{Sql, Tx, signed, take, unreadable, unsigned};

const TAKING: &str = "taking events";

/// Writes events, in order; nobody's yet.
pub(super) async fn append(tx: &Tx, sql: &Sql, happenings: &[(&DeliveryKey, &Happening)]) -> Result<(), PortError> {
    const WIDTH: usize = 8;
    for part in happenings.chunks(Rows::limit(sql.backend, WIDTH)) {
        let all = || part.iter().map(|(_, happening)| *happening);
        let rows = Rows::default()
            .uuids("message_id", part.iter().map(|(key, _)| key.message_id.uuid()))
            .texts("subscription", part.iter().map(|(key, _)| key.subscription.as_str().to_owned()))
            .ints("at", all().map(|one| one.at.as_millis()))
            .ints("due_at", all().map(|one| one.at.as_millis()))
            .ints("attempt", all().map(|one| packed(one.attempt)))
            .texts("what", all().map(|one| one.what.as_str().to_owned()))
            .texts("upstream", all().map(|one| one.upstream.as_str().to_owned()))
            .texts("reason", all().map(|one| printable(&one.reason)));
        let names = rows.names();
        let (source, values) = rows.source(sql.backend);
        tx.run(&format!("INSERT INTO countersign_event ({names}) SELECT {names} FROM {source}"), values).await?;
    }
    Ok(())
}

/// Takes up to `limit` events. A look that writes nothing comes first: mostly there are none.
pub(super) async fn taken(shard: Shard<'_>, lease_ms: u64, limit: u32) -> Result<Vec<Recorded>, PortError> {
    let (sql, now) = (shard.sql, shard.now().await?);
    let look = "SELECT 1 FROM countersign_event AS e WHERE e.due_at <= $1 LIMIT 1";
    if sql.read(TAKING, look, vec![now.as_millis().into()]).await?.is_empty() {
        return Ok(Vec::new());
    }
    let skip = sql.either("FOR UPDATE OF e SKIP LOCKED", "");
    let statement = format!(
        "UPDATE countersign_event SET due_at = $1 WHERE number IN \
         (SELECT e.number FROM countersign_event AS e WHERE e.due_at <= $2 ORDER BY e.number LIMIT $3 {skip}) \
         RETURNING number, message_id, subscription, at, attempt, what, upstream, reason"
    );
    let values = vec![now.plus_millis(lease_ms).as_millis().into(), now.as_millis().into(), i64::from(limit).into()];
    let mut events = Vec::new();
    for row in sql.write_returning(TAKING, &statement, values).await? {
        events.push(recorded(&row)?);
    }
    events.sort_unstable_by_key(|event: &Recorded| event.number);
    Ok(events)
}

fn recorded(row: &QueryResult) -> Result<Recorded, PortError> {
    let word = take::<String>(row, "what")?;
    let happening = Happening {
        what: What::parse(&word).ok_or_else(|| unreadable(format!("{word:?} is no event")))?,
        upstream: UpstreamName::new(&take::<String>(row, "upstream")?).map_err(unreadable)?,
        attempt: unpacked(take(row, "attempt")?),
        reason: take(row, "reason")?,
        at: Timestamp::from_millis(take(row, "at")?),
    };
    Ok(Recorded { number: unsigned(take(row, "number")?), key: key(row)?, happening })
}

/// Deletes what was published.
pub(super) async fn delete(sql: &Sql, events: &[&Recorded]) -> Result<(), PortError> {
    for part in events.chunks(Rows::limit(sql.backend, 1)) {
        let (source, values) = Rows::default().ints("number", part.iter().map(|event| signed(event.number))).source(sql.backend);
        let statement = format!("DELETE FROM countersign_event WHERE number IN (SELECT v.number FROM {source})");
        sql.write("deleting published events", &statement, values).await?;
    }
    Ok(())
}

/// Deletes what is `keep` numbers or more behind the newest.
pub(super) async fn drop_oldest(sql: &Sql, keep: u64) -> Result<u64, PortError> {
    let statement = "DELETE FROM countersign_event WHERE number <= (SELECT max(e.number) FROM countersign_event AS e) - $1";
    Ok(sql.write("dropping old events", statement, vec![signed(keep).into()]).await?.rows_affected())
}
