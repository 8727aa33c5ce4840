//! Effects as the handler's own database has them, read behind the back of every service.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use sea_orm::{ConnectOptions, ConnectionTrait as _, Database, DatabaseConnection, DbBackend, Statement};

/// A handler's database: a table `effect` with the message's id and the time of each effect.
#[derive(Debug)]
pub struct Ledger(DatabaseConnection);

impl Ledger {
    /// Opens the file for reading.
    ///
    /// # Errors
    /// When it is not there.
    pub async fn open(file: &Path) -> anyhow::Result<Self> {
        let mut options = ConnectOptions::new(format!("sqlite://{}?mode=ro", file.display()));
        options.max_connections(1).sqlx_logging(false);
        Ok(Self(Database::connect(options).await.with_context(|| format!("opening {}", file.display()))?))
    }

    /// How many messages have had an effect, counted only once there are at least `wanted` effects: until then, how many effects there are,
    /// which costs nothing.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn distinct(&self, wanted: u64) -> anyhow::Result<u64> {
        let total = self.number("SELECT coalesce(MAX(number), 0) AS n FROM effect").await?;
        if total < wanted { Ok(total) } else { self.number("SELECT COUNT(DISTINCT idempotency_key) AS n FROM effect").await }
    }

    async fn number(&self, query: &str) -> anyhow::Result<u64> {
        let row = self.0.query_one_raw(Statement::from_string(DbBackend::Sqlite, query)).await?.context("no number")?;
        Ok(u64::try_from(row.try_get::<i64>("", "n")?)?)
    }

    /// The times of every message's effects, milliseconds since the Unix epoch, in order.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn effects(&self) -> anyhow::Result<BTreeMap<String, Vec<i64>>> {
        self.times("effect").await
    }

    /// The times of every message's calls, failed ones included. Only the order handler notes them.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn calls(&self) -> anyhow::Result<BTreeMap<String, Vec<i64>>> {
        self.times("call").await
    }

    async fn times(&self, table: &str) -> anyhow::Result<BTreeMap<String, Vec<i64>>> {
        let query = format!("SELECT idempotency_key, at FROM {table} ORDER BY number");
        let mut times = BTreeMap::<String, Vec<i64>>::new();
        for row in self.0.query_all_raw(Statement::from_string(DbBackend::Sqlite, query)).await? {
            times.entry(row.try_get("", "idempotency_key")?).or_default().push(row.try_get("", "at")?);
        }
        Ok(times)
    }
}
