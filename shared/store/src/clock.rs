//! The database's own clock, read without asking the database each time.

use std::time::{Duration, Instant};

use countersign_delivery::Timestamp;
use countersign_delivery::ports::PortError;
use sea_orm::DbBackend;
use tokio::sync::Mutex;

use crate::sql::{Sql, take, unreadable};

/// For how long a reading is carried forward on this process's monotonic clock; the two drift apart by far less than a
/// millisecond meanwhile, and a clock that was set is followed after at most this time.
const REFRESH: Duration = Duration::from_secs(5);

const ON_POSTGRES: &str = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint";
const ON_SQLITE: &str = "CAST(unixepoch('subsec') * 1000 AS INTEGER)";

/// The database's time as an expression, milliseconds since the epoch of Unix.
pub(crate) const fn now_within(backend: DbBackend) -> &'static str {
    if matches!(backend, DbBackend::Sqlite) { ON_SQLITE } else { ON_POSTGRES }
}

/// The last reading.
#[derive(Debug, Default)]
pub(crate) struct DatabaseClock {
    reading: Mutex<Option<Reading>>,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Instant,
    millis: i64,
}

impl DatabaseClock {
    /// The database's time.
    pub(crate) async fn now(&self, sql: &Sql) -> Result<Timestamp, PortError> {
        let mut reading = self.reading.lock().await;
        let fresh = reading.filter(|reading| reading.at.elapsed() < REFRESH);
        let known = match fresh {
            Some(known) => known,
            None => *reading.insert(read(sql).await?),
        };
        let passed = u64::try_from(known.at.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(Timestamp::from_millis(known.millis).plus_millis(passed))
    }
}

/// Asks once; the answer is taken to be from the middle of the round trip.
async fn read(sql: &Sql) -> Result<Reading, PortError> {
    let question = format!("SELECT {} AS millis", now_within(sql.backend));
    let asked = Instant::now();
    let rows = sql.read("reading the database's clock", &question, Vec::new()).await?;
    let at = asked + asked.elapsed() / 2;
    let row = rows.first().ok_or_else(|| unreadable("the clock gave no row"))?;
    Ok(Reading { at, millis: take(row, "millis")? })
}
