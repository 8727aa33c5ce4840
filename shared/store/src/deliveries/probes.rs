//! Probes: numbered per lane, stored before they are published, answered once.

use std::collections::HashMap;

use countersign_delivery::id::SubscriptionName;
use countersign_delivery::ports::PortError;
use countersign_delivery::probe::{Lane, NextProbe, Probe};
use countersign_delivery::receipt::ProbeAnswer;
use countersign_delivery::time::Timestamp;
use sea_orm::QueryResult;

use crate::rows::{Rows, place};
use crate::sql::{Sql, signed, take, unreadable, unsigned};

/// How many of a lane's probes are read: numbers have no gaps, so these are the last ones.
const READ: i64 = 64;

/// How many of a lane's probes stay in the table, at least.
const KEPT: u64 = 256;

/// Old probes are deleted each time a lane's number is a multiple of this.
const SWEEP_EVERY: u64 = 64;

/// The lane that goes straight has no delay; a key has no NULL.
const STRAIGHT: i64 = -1;

fn delay(lane: &Lane) -> i64 {
    lane.retry_delay_ms.map_or(STRAIGHT, signed)
}

fn lanes_as_rows<'a>(lanes: impl Iterator<Item = &'a Lane> + Clone) -> Rows {
    Rows::default()
        .texts("subscription", lanes.clone().map(|lane| lane.subscription.as_str().to_owned()))
        .ints("retry_delay_ms", lanes.map(delay))
}

/// The recent probes of each lane, in the order of `lanes`.
pub(super) async fn recent(sql: &Sql, lanes: &[Lane]) -> Result<Vec<Vec<Probe>>, PortError> {
    let mut found: HashMap<Lane, Vec<Probe>> = HashMap::with_capacity(lanes.len());
    let mut distinct: Vec<&Lane> = lanes.iter().collect();
    distinct.sort_unstable();
    distinct.dedup();
    for part in distinct.chunks(Rows::limit(sql.backend, 2)) {
        let (source, mut values) = lanes_as_rows(part.iter().copied()).source(sql.backend);
        let read = place(&mut values, READ);
        let query = format!(
            "SELECT p.subscription, p.retry_delay_ms, p.number, p.floor, p.stored_at, p.answered_at \
             FROM {source} CROSS JOIN countersign_probe AS p \
             WHERE p.subscription = v.subscription AND p.retry_delay_ms = v.retry_delay_ms AND p.number > \
             (SELECT coalesce(max(q.number), 0) - {read} FROM countersign_probe AS q \
              WHERE q.subscription = v.subscription AND q.retry_delay_ms = v.retry_delay_ms) \
             ORDER BY p.number"
        );
        for row in sql.read("reading probes", &query, values).await? {
            let (lane, probe) = probe(&row)?;
            found.entry(lane).or_default().push(probe);
        }
    }
    Ok(lanes.iter().map(|lane| found.get(lane).cloned().unwrap_or_default()).collect())
}

fn probe(row: &QueryResult) -> Result<(Lane, Probe), PortError> {
    let subscription = SubscriptionName::new(&take::<String>(row, "subscription")?).map_err(unreadable)?;
    let retry_delay_ms = u64::try_from(take::<i64>(row, "retry_delay_ms")?).ok();
    let probe = Probe {
        number: unsigned(take(row, "number")?),
        floor: unsigned(take(row, "floor")?),
        stored_at: Timestamp::from_millis(take(row, "stored_at")?),
        answered_at: take::<Option<i64>>(row, "answered_at")?.map(Timestamp::from_millis),
    };
    Ok((Lane { subscription, retry_delay_ms }, probe))
}

/// Stores a probe, unless its number is taken.
pub(super) async fn store(sql: &Sql, lane: &Lane, probe: NextProbe, now: Timestamp) -> Result<bool, PortError> {
    const WHAT: &str = "storing a probe";
    let insert = "INSERT INTO countersign_probe (subscription, retry_delay_ms, number, floor, stored_at) \
                  VALUES ($1, $2, $3, $4, $5) ON CONFLICT (subscription, retry_delay_ms, number) DO NOTHING";
    let name = lane.subscription.as_str();
    let values =
        vec![name.into(), delay(lane).into(), signed(probe.number).into(), signed(probe.floor).into(), now.as_millis().into()];
    let stored = sql.write(WHAT, insert, values).await?.rows_affected() == 1;
    if stored && probe.number > KEPT && probe.number.is_multiple_of(SWEEP_EVERY) {
        let sweep = "DELETE FROM countersign_probe WHERE subscription = $1 AND retry_delay_ms = $2 AND number <= $3";
        let values = vec![name.into(), delay(lane).into(), signed(probe.number - KEPT).into()];
        // The probe is stored whatever becomes of this; the next multiple sweeps again.
        if let Err(error) = sql.write(WHAT, sweep, values).await {
            tracing::warn!(%error, subscription = name, "old probes could not be deleted");
        }
    }
    Ok(stored)
}

/// Notes the first answer of each.
pub(super) async fn answered(sql: &Sql, answers: &[ProbeAnswer], now: Timestamp) -> Result<(), PortError> {
    const WIDTH: usize = 3;
    for part in answers.chunks(Rows::limit(sql.backend, WIDTH)) {
        let rows = lanes_as_rows(part.iter().map(|answer| &answer.lane));
        let (source, mut values) = rows.ints("number", part.iter().map(|answer| signed(answer.number))).source(sql.backend);
        let now = place(&mut values, now.as_millis());
        let update = format!(
            "UPDATE countersign_probe AS p SET answered_at = {now} FROM {source} \
             WHERE p.subscription = v.subscription AND p.retry_delay_ms = v.retry_delay_ms AND p.number = v.number \
             AND p.answered_at IS NULL"
        );
        sql.write("noting answered probes", &update, values).await?;
    }
    Ok(())
}
