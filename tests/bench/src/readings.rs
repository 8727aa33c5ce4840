//! What databases say about themselves and their tables, asked over a connection of our own.

use anyhow::Context as _;
use sea_orm::{ConnectOptions, ConnectionTrait as _, Database, DatabaseConnection, Statement};

/// One database, asked from outside.
pub(crate) struct Readings(DatabaseConnection);

impl Readings {
    /// Connects.
    pub(crate) async fn of(url: &str) -> anyhow::Result<Self> {
        let mut options = ConnectOptions::new(url);
        options.max_connections(1).sqlx_logging(false);
        Ok(Self(Database::connect(options).await.with_context(|| format!("connecting to {url}"))?))
    }

    /// The one number that a query has as `value`.
    pub(crate) async fn number(&self, query: &str) -> anyhow::Result<i64> {
        let statement = Statement::from_string(self.0.get_database_backend(), query);
        let row = self.0.query_one_raw(statement).await.with_context(|| query.to_owned())?.context("no row")?;
        row.try_get("", "value").with_context(|| query.to_owned())
    }

    /// Runs a statement; how many rows it wrote.
    pub(crate) async fn run(&self, statement: &str) -> anyhow::Result<u64> {
        let done = self.0.execute_unprepared(statement).await.with_context(|| statement.to_owned())?;
        Ok(done.rows_affected())
    }

    /// Rows of messages that upstream keeps here.
    pub(crate) async fn messages(&self) -> anyhow::Result<i64> {
        self.number("SELECT count(*) AS value FROM countersign_message").await
    }

    /// Deliveries that MSG DB, which is here, has as done.
    pub(crate) async fn done(&self) -> anyhow::Result<i64> {
        self.number("SELECT count(*) AS value FROM countersign_delivery WHERE state = 'done'").await
    }

    /// Where the server's write-ahead log ends, bytes: of all its databases. `PostgreSQL` only.
    pub(crate) async fn wal_bytes(&self) -> anyhow::Result<i64> {
        self.number("SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint AS value").await
    }

    /// Rows inserted and updated in our tables since they were made. `PostgreSQL` only, where a session counts them when it ends, and seldom before.
    pub(crate) async fn rows_written(&self) -> anyhow::Result<i64> {
        let written = "SELECT COALESCE(SUM(n_tup_ins + n_tup_upd), 0)::bigint AS value FROM pg_stat_user_tables";
        self.number(&format!("{written} WHERE relname LIKE 'countersign_%'")).await
    }

    /// Statements that a database of this server was given so far, BEGIN and COMMIT among them. `PostgreSQL` only, started so that it counts them.
    pub(crate) async fn statements(&self, database: &str) -> anyhow::Result<i64> {
        let counted = "SELECT COALESCE(SUM(s.calls), 0)::bigint AS value FROM pg_stat_statements AS s JOIN pg_database AS d ON d.oid = s.dbid";
        self.number(&format!("{counted} WHERE d.datname = '{database}'")).await
    }
}

/// A difference of two readings, a message.
#[allow(clippy::cast_precision_loss, reason = "bytes, rows and statements; far below 2^52")]
pub(crate) fn each(difference: i64, messages: u32) -> f64 {
    difference as f64 / f64::from(messages)
}
