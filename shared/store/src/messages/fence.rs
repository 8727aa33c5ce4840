//! Incarnations: opened, heard of, adopted, fenced, closed.

use countersign_delivery::id::{IncarnationId, Seq, UpstreamName};
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::messages::{Heartbeat, IncarnationState, Opened};
use countersign_delivery::time::Timestamp;
use sea_orm::QueryResult;
use uuid::Uuid;

use crate::clock::now_within;
use crate::sql::{Sql, signed, take, unreadable, unsigned};

const OPENING: &str = "opening an incarnation";

/// Inserts the incarnation and its heartbeat. A repeat after a lost answer changes nothing.
pub(super) async fn open(
    sql: &Sql,
    upstream: &UpstreamName,
    incarnation: IncarnationId,
    now: Timestamp,
) -> Result<Opened, PortError> {
    let tx = sql.begin(OPENING).await?;
    let values = vec![incarnation.0.into(), upstream.as_str().into(), signed(incarnation.tag()).into()];
    let statement =
        "INSERT INTO countersign_incarnation (id, upstream, state, tag) VALUES ($1, $2, 'open', $3) ON CONFLICT (id) DO NOTHING";
    tx.run(statement, values).await?;
    let values = vec![incarnation.0.into(), signed(Seq::FIRST.0).into(), now.as_millis().into()];
    let statement = format!(
        "INSERT INTO countersign_heartbeat (incarnation, counter, watermark, settled_until) VALUES ($1, 0, $2, {}) \
         ON CONFLICT (incarnation) DO NOTHING",
        not_ahead(sql, "$3")
    );
    tx.run(&statement, values).await?;
    tx.commit().await?;
    opened(sql, upstream).await
}

/// What has been promised so far, asked after the commit.
async fn opened(sql: &Sql, upstream: &UpstreamName) -> Result<Opened, PortError> {
    let query = format!(
        "SELECT COALESCE(MAX(h.settled_until), 0) AS promised, {} AS now FROM countersign_incarnation AS i \
         JOIN countersign_heartbeat AS h ON h.incarnation = i.id WHERE i.upstream = $1",
        now_within(sql.backend)
    );
    let rows = sql.read(OPENING, &query, vec![upstream.as_str().into()]).await?;
    let row = rows.first().ok_or_else(|| unreadable("what was promised gave no row"))?;
    let time = |column| take(row, column).map(Timestamp::from_millis);
    Ok(Opened { promised: time("promised")?, now: time("now")? })
}

/// A time, or the database's if that is earlier.
fn not_ahead(sql: &Sql, time: &str) -> String {
    format!("{}({time}, {})", sql.either("LEAST", "MIN"), now_within(sql.backend))
}

/// The owner's sign of life; false once somebody has adopted it.
pub(super) async fn beat(
    sql: &Sql,
    incarnation: IncarnationId,
    counter: u64,
    watermark: Seq,
    settled_until: Timestamp,
) -> Result<bool, PortError> {
    let statement = format!(
        "UPDATE countersign_heartbeat SET counter = $2, watermark = $3, settled_until = {}(settled_until, {}) \
         WHERE incarnation = $1 AND adopter IS NULL",
        sql.either("GREATEST", "MAX"),
        not_ahead(sql, "$4")
    );
    let values = vec![incarnation.0.into(), signed(counter).into(), signed(watermark.0).into(), settled_until.as_millis().into()];
    Ok(sql.write("beating", &statement, values).await?.rows_affected() == 1)
}

/// Everything of this upstream that is not closed.
pub(super) async fn heartbeats(sql: &Sql, upstream: &UpstreamName) -> Result<Vec<Heartbeat>, PortError> {
    let query = "SELECT h.incarnation, h.counter, h.watermark, h.settled_until, h.adopter, i.state FROM countersign_incarnation AS i \
                 JOIN countersign_heartbeat AS h ON h.incarnation = i.id \
                 WHERE i.upstream = $1 AND i.state <> 'closed' ORDER BY i.id";
    let rows = sql.read("reading heartbeats", query, vec![upstream.as_str().into()]).await?;
    rows.iter().map(heartbeat).collect()
}

fn heartbeat(row: &QueryResult) -> Result<Heartbeat, PortError> {
    let state = match take::<String>(row, "state")?.as_str() {
        "open" => IncarnationState::Open,
        "fenced" => IncarnationState::Fenced,
        "closed" => IncarnationState::Closed,
        other => return Err(unreadable(format!("{other:?} is no state of an incarnation"))),
    };
    Ok(Heartbeat {
        incarnation: IncarnationId(take(row, "incarnation")?),
        counter: unsigned(take(row, "counter")?),
        watermark: Seq(unsigned(take(row, "watermark")?)),
        settled_until: Timestamp::from_millis(take(row, "settled_until")?),
        adopter: take::<Option<Uuid>>(row, "adopter")?.map(IncarnationId),
        state,
    })
}

/// Claims an inheritance, if nobody has moved since it was seen.
pub(super) async fn adopt(sql: &Sql, seen: &Heartbeat, adopter: IncarnationId) -> Result<bool, PortError> {
    let statement = "UPDATE countersign_heartbeat SET adopter = $2 \
                     WHERE incarnation = $1 AND counter = $3 AND adopter IS NOT DISTINCT FROM $4 \
                     AND EXISTS (SELECT 1 FROM countersign_incarnation AS i WHERE i.id = $1 AND i.state <> 'closed')";
    let held = seen.adopter.map(|adopter| adopter.0);
    let values = vec![seen.incarnation.0.into(), adopter.0.into(), signed(seen.counter).into(), held.into()];
    Ok(sql.write("adopting", statement, values).await?.rows_affected() == 1)
}

/// Fences it. The UPDATE waits for the share lock of every open insert; one that comes later finds it fenced.
pub(super) async fn fence(sql: &Sql, incarnation: IncarnationId) -> Result<(), PortError> {
    let statement = "UPDATE countersign_incarnation SET state = 'fenced' WHERE id = $1 AND state = 'open'";
    sql.write("fencing", statement, vec![incarnation.0.into()]).await.map(drop)
}

/// Closes it.
pub(super) async fn close(sql: &Sql, incarnation: IncarnationId) -> Result<(), PortError> {
    let statement = "UPDATE countersign_incarnation SET state = 'closed' WHERE id = $1 AND state <> 'closed'";
    sql.write("closing an incarnation", statement, vec![incarnation.0.into()]).await.map(drop)
}
