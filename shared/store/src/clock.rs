//! The database's own clock, read without asking the database each time.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use countersign_delivery::Timestamp;
use countersign_delivery::ports::PortError;
use sea_orm::{DbBackend, QueryResult};

use crate::sql::{Sql, Tx, take, unreadable};

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
///
/// **Invariant:** nobody waits for another's reading: who holds a connection would wait for one who needs one.
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
        if let Some(known) = self.fresh() {
            return Ok(known);
        }
        let asked = Instant::now();
        let rows = sql.read("reading the database's clock", &question(sql.backend), Vec::new()).await?;
        self.keep(asked, &rows)
    }

    /// The same for who is in a transaction: asked over its connection, not over a further one, which may not be to be had.
    pub(crate) async fn now_in(&self, tx: &Tx) -> Result<Timestamp, PortError> {
        if let Some(known) = self.fresh() {
            return Ok(known);
        }
        let asked = Instant::now();
        let rows = tx.rows(&question(tx.backend()), Vec::new()).await?;
        self.keep(asked, &rows)
    }

    fn fresh(&self) -> Option<Timestamp> {
        let known = *self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        known.filter(|known| known.at.elapsed() < REFRESH).map(Reading::now)
    }

    /// The answer is taken to be from the middle of the round trip.
    fn keep(&self, asked: Instant, rows: &[QueryResult]) -> Result<Timestamp, PortError> {
        let row = rows.first().ok_or_else(|| unreadable("the clock gave no row"))?;
        let reading = Reading { at: asked + asked.elapsed() / 2, millis: take(row, "millis")? };
        *self.reading.lock().unwrap_or_else(PoisonError::into_inner) = Some(reading);
        Ok(reading.now())
    }
}

impl Reading {
    fn now(self) -> Timestamp {
        let passed = u64::try_from(self.at.elapsed().as_millis()).unwrap_or(u64::MAX);
        Timestamp::from_millis(self.millis).plus_millis(passed)
    }
}

fn question(backend: DbBackend) -> String {
    format!("SELECT {} AS millis", now_within(backend))
}
