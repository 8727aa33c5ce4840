//! What the orders effected, in the service's own database.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use clap::ValueEnum;
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, Statement, TransactionTrait, Value};
use serde::Serialize;

const SCHEMA: [&str; 3] = [
    "CREATE TABLE IF NOT EXISTS effect (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        idempotency_key TEXT NOT NULL, ce_id TEXT NOT NULL, body BLOB NOT NULL, at INTEGER NOT NULL)",
    "CREATE INDEX IF NOT EXISTS effect_key ON effect (idempotency_key)",
    "CREATE TABLE IF NOT EXISTS call (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        idempotency_key TEXT NOT NULL, status INTEGER NOT NULL, at INTEGER NOT NULL)",
];
/// The key is stored with the effect, in its transaction, and can be stored once: two calls at a time cannot both have the effect.
const ONCE: &str = "CREATE UNIQUE INDEX IF NOT EXISTS effect_once ON effect (idempotency_key)";
/// How a repeat stands among the calls.
const DUPLICATE: u16 = 208;

/// Whether the service itself tells repeats apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Every call appends an effect: repeats become visible.
    Count,
    /// The first call of a key has the effect; later ones are answered as duplicates.
    Idempotent,
}

/// One order as it was delivered.
#[derive(Debug)]
pub struct Order {
    /// Header `Idempotency-Key`, or `ce-id` without one.
    pub key: String,
    /// Header `ce-id`.
    pub ce_id: String,
    /// The body as it came.
    pub body: Vec<u8>,
}

/// What became of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// It had its effect now.
    Effected,
    /// It had had its effect before.
    Duplicate,
}

/// What `GET /effects` answers.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// Effects in all.
    pub total: i64,
    /// Keys with at least one effect.
    pub distinct: i64,
    /// Calls in all, failed ones included.
    pub calls: i64,
    /// Effects of each key.
    pub effects: BTreeMap<String, i64>,
    /// Calls of each key, failed ones included.
    pub calls_by_key: BTreeMap<String, i64>,
}

/// What `GET /counts` answers.
#[derive(Debug, Serialize)]
pub struct Counts {
    /// Effects in all.
    pub effects: i64,
    /// Different bodies that had an effect: orders as the business sees them, whatever id they travelled under.
    pub orders: i64,
    /// Calls in all, failed ones included.
    pub calls: i64,
    /// Calls that were answered as repeats.
    pub duplicates: i64,
    /// Calls that have no answer yet.
    pub in_flight: u64,
}

/// The database of the service.
#[derive(Debug)]
pub struct Effects {
    database: DatabaseConnection,
    mode: Mode,
}

impl Effects {
    /// Opens the file and creates what is missing in it.
    pub async fn open(path: &Path, mode: Mode) -> anyhow::Result<Self> {
        let mut options = ConnectOptions::new(format!("sqlite://{}?mode=rwc", path.display()));
        // One connection is one writer: SQLite has no more, and waiting in the pool beats waiting for its lock.
        options.max_connections(1).sqlx_logging(false);
        let database = Database::connect(options).await.with_context(|| format!("opening {}", path.display()))?;
        for statement in ["PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL"].iter().chain(&SCHEMA) {
            database.execute_unprepared(statement).await?;
        }
        if mode == Mode::Idempotent {
            database.execute_unprepared(ONCE).await.context("the database has orders with several effects: use another file")?;
        }
        Ok(Self { database, mode })
    }

    /// Lets an order have its effect, in one transaction with its key and the note that it was called.
    pub async fn apply(&self, order: Order, at_ms: i64) -> anyhow::Result<Done> {
        let transaction = self.database.begin().await?;
        let key = order.key.clone();
        let values = [order.key.into(), order.ce_id.into(), order.body.into(), at_ms.into()];
        let insert = match self.mode {
            Mode::Count => "INSERT INTO effect (idempotency_key, ce_id, body, at) VALUES (?, ?, ?, ?)",
            Mode::Idempotent => {
                "INSERT INTO effect (idempotency_key, ce_id, body, at) VALUES (?, ?, ?, ?) ON CONFLICT (idempotency_key) DO NOTHING"
            }
        };
        let done = match transaction.execute_raw(sql(insert, values)).await?.rows_affected() {
            0 => Done::Duplicate,
            _ => Done::Effected,
        };
        note(&transaction, key, if done == Done::Duplicate { DUPLICATE } else { 200 }, at_ms).await?;
        transaction.commit().await?;
        Ok(done)
    }

    /// Notes a call that had no effect because the service was told to fail.
    pub async fn refuse(&self, key: String, status: u16, at_ms: i64) -> anyhow::Result<()> {
        note(&self.database, key, status, at_ms).await
    }

    /// Counts everything.
    pub async fn summary(&self) -> anyhow::Result<Summary> {
        let effects = self.by_key("SELECT idempotency_key, COUNT(*) AS n FROM effect GROUP BY 1").await?;
        let calls = self.by_key("SELECT idempotency_key, COUNT(*) AS n FROM call GROUP BY 1").await?;
        Ok(Summary {
            total: effects.values().sum(),
            distinct: i64::try_from(effects.len())?,
            calls: calls.values().sum(),
            effects,
            calls_by_key: calls,
        })
    }

    /// Counts what can be counted without a list of all keys.
    pub async fn counts(&self, in_flight: u64) -> anyhow::Result<Counts> {
        let query = "SELECT (SELECT COUNT(*) FROM effect) AS effects, (SELECT COUNT(DISTINCT body) FROM effect) AS orders,
            (SELECT COUNT(*) FROM call) AS calls, (SELECT COUNT(*) FROM call WHERE status = ?) AS duplicates";
        let row = self.database.query_one_raw(sql(query, [i64::from(DUPLICATE).into()])).await?.context("no counts")?;
        Ok(Counts {
            effects: row.try_get("", "effects")?,
            orders: row.try_get("", "orders")?,
            calls: row.try_get("", "calls")?,
            duplicates: row.try_get("", "duplicates")?,
            in_flight,
        })
    }

    async fn by_key(&self, query: &str) -> anyhow::Result<BTreeMap<String, i64>> {
        let rows = self.database.query_all_raw(sql(query, [])).await?;
        rows.iter().map(|row| Ok((row.try_get("", "idempotency_key")?, row.try_get("", "n")?))).collect()
    }
}

async fn note(on: &impl ConnectionTrait, key: String, status: u16, at_ms: i64) -> anyhow::Result<()> {
    let insert = "INSERT INTO call (idempotency_key, status, at) VALUES (?, ?, ?)";
    on.execute_raw(sql(insert, [key.into(), i64::from(status).into(), at_ms.into()])).await?;
    Ok(())
}

fn sql<const N: usize>(text: &str, values: [Value; N]) -> Statement {
    Statement::from_sql_and_values(DbBackend::Sqlite, text, values)
}
