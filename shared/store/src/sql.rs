//! Statements, each under a bound of time and with its errors sorted.
//!
//! **Invariant:** nothing in this crate reaches the database but through here.

use std::future::Future;
use std::time::Duration;

use countersign_delivery::ports::PortError;
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, ExecResult, QueryResult, SqliteTransactionMode,
    Statement, TransactionOptions, TransactionTrait, Value,
};

use crate::database::postgres::BY_KEY;
use crate::error::{Phase, sort, timed_out};

/// The connections of one database.
#[derive(Clone, Debug)]
pub(crate) struct Sql {
    /// For what writes. SQLite: one connection, so that writers queue here and not at the file's lock.
    pub(crate) write: DatabaseConnection,
    /// For what only reads. PostgreSQL: the same pool.
    pub(crate) read: DatabaseConnection,
    /// Which dialect.
    pub(crate) backend: DbBackend,
    /// No call waits longer, whatever the server does: it may be stopped, or its host gone.
    pub(crate) patience: Duration,
}

/// A transaction that writes. Dropped without [`Tx::commit`] it rolls back.
#[derive(Debug)]
pub(crate) struct Tx {
    inner: DatabaseTransaction,
    backend: DbBackend,
    patience: Duration,
    what: &'static str,
}

/// Where a query runs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Over<'a> {
    /// Outside any transaction; a few words for errors.
    Pool(&'a Sql, &'static str),
    /// In this one.
    Tx(&'a Tx),
}

impl Over<'_> {
    pub(crate) const fn backend(self) -> DbBackend {
        match self {
            Self::Pool(sql, _) => sql.backend,
            Self::Tx(tx) => tx.backend,
        }
    }

    pub(crate) async fn rows(self, query: &str, values: Vec<Value>) -> Result<Vec<QueryResult>, PortError> {
        match self {
            Self::Pool(sql, what) => sql.read(what, query, values).await,
            Self::Tx(tx) => tx.rows(query, values).await,
        }
    }
}

impl Sql {
    /// Rows of a query outside any transaction.
    pub(crate) async fn read(&self, what: &'static str, sql: &str, values: Vec<Value>) -> Result<Vec<QueryResult>, PortError> {
        let statement = Statement::from_sql_and_values(self.backend, sql, values);
        self.bounded(what, Phase::Open, self.read.query_all_raw(statement)).await
    }

    /// Runs a statement that commits by itself.
    pub(crate) async fn write(&self, what: &'static str, sql: &str, values: Vec<Value>) -> Result<ExecResult, PortError> {
        let statement = Statement::from_sql_and_values(self.backend, sql, values);
        self.bounded(what, Phase::Commit, self.write.execute_raw(statement)).await
    }

    /// Runs a statement that commits by itself and returns rows.
    pub(crate) async fn write_returning(
        &self,
        what: &'static str,
        sql: &str,
        values: Vec<Value>,
    ) -> Result<Vec<QueryResult>, PortError> {
        let statement = Statement::from_sql_and_values(self.backend, sql, values);
        self.bounded(what, Phase::Commit, self.write.query_all_raw(statement)).await
    }

    /// Begins a transaction that writes. `what` names it in errors.
    pub(crate) async fn begin(&self, what: &'static str) -> Result<Tx, PortError> {
        let sqlite_transaction_mode = (self.backend == DbBackend::Sqlite).then_some(SqliteTransactionMode::Immediate);
        let options = TransactionOptions { sqlite_transaction_mode, ..TransactionOptions::default() };
        let inner = self.bounded(what, Phase::Open, self.write.begin_with_options(options)).await?;
        Ok(Tx { inner, backend: self.backend, patience: self.patience, what })
    }

    /// Begins a transaction for a caller's own statements. On PostgreSQL, until it ends: the server's own settings instead of those that
    /// suit this crate's statements, and these `limits` (names of settings, milliseconds). On SQLite it holds the one connection that
    /// writes, and nobody is limited by the database.
    pub(crate) async fn begin_for_caller(&self, what: &'static str, limits: &[(&str, u128)]) -> Result<Tx, PortError> {
        let tx = self.begin(what).await?;
        if self.backend == DbBackend::Postgres {
            let own = BY_KEY.map(|setting| format!("SET LOCAL {setting} TO DEFAULT; ")).concat();
            let limits: Vec<_> = limits.iter().map(|(setting, millis)| format!("SET LOCAL {setting} TO {millis}")).collect();
            tx.run_all(&(own + &limits.join("; "))).await?;
        }
        Ok(tx)
    }

    /// The text for the dialect at hand.
    pub(crate) fn either(&self, postgres: &'static str, sqlite: &'static str) -> &'static str {
        if self.backend == DbBackend::Sqlite { sqlite } else { postgres }
    }

    /// Waits for a call for as long as patience lasts.
    pub(crate) async fn bounded<T>(
        &self,
        what: &'static str,
        phase: Phase,
        call: impl Future<Output = Result<T, DbErr>>,
    ) -> Result<T, PortError> {
        bounded(self.patience, what, phase, call).await
    }
}

async fn bounded<T>(
    patience: Duration,
    what: &'static str,
    phase: Phase,
    call: impl Future<Output = Result<T, DbErr>>,
) -> Result<T, PortError> {
    match tokio::time::timeout(patience, call).await {
        Ok(answer) => answer.map_err(|error| sort(what, phase, error)),
        Err(elapsed) => Err(timed_out(what, phase, elapsed)),
    }
}

impl Tx {
    /// Which dialect.
    pub(crate) const fn backend(&self) -> DbBackend {
        self.backend
    }

    /// Runs a statement.
    pub(crate) async fn run(&self, sql: &str, values: Vec<Value>) -> Result<ExecResult, PortError> {
        let statement = Statement::from_sql_and_values(self.backend, sql, values);
        bounded(self.patience, self.what, Phase::Open, self.inner.execute_raw(statement)).await
    }

    /// Runs a statement that returns rows.
    pub(crate) async fn rows(&self, sql: &str, values: Vec<Value>) -> Result<Vec<QueryResult>, PortError> {
        let statement = Statement::from_sql_and_values(self.backend, sql, values);
        bounded(self.patience, self.what, Phase::Open, self.inner.query_all_raw(statement)).await
    }

    /// Runs statements without values and without answers.
    pub(crate) async fn run_all(&self, statements: &str) -> Result<(), PortError> {
        bounded(self.patience, self.what, Phase::Open, self.inner.execute_unprepared(statements)).await.map(drop)
    }

    /// The transaction as sea-orm knows it: for its migrator, and for a caller's own statements.
    pub(crate) const fn inner(&self) -> &DatabaseTransaction {
        &self.inner
    }

    /// Makes it durable.
    pub(crate) async fn commit(self) -> Result<(), PortError> {
        bounded(self.patience, self.what, Phase::Commit, self.inner.commit()).await
    }

    /// Takes it back at once.
    pub(crate) async fn rollback(self) -> Result<(), PortError> {
        bounded(self.patience, self.what, Phase::Open, self.inner.rollback()).await
    }
}

/// A value of one column of a row.
pub(crate) fn take<T: sea_orm::TryGetable>(row: &QueryResult, column: &str) -> Result<T, PortError> {
    row.try_get("", column).map_err(|error| PortError::Refused("reading a row", error.into()))
}

/// A row that holds what this crate never writes.
pub(crate) fn unreadable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> PortError {
    PortError::Refused("reading a row", error.into())
}

/// A counter as the database holds it; beyond its range it stays at the end of it.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A counter back from the database.
pub(crate) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}
