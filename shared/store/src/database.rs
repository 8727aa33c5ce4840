//! Opening a database, and what can be done with it.

pub(crate) mod postgres;
mod sqlite;

use std::sync::Arc;

use countersign_delivery::ports::PortError;
use sea_orm::DbBackend;
use tokio::sync::Semaphore;

use crate::audit::SqlAudit;
use crate::clock::DatabaseClock;
use crate::config::Config;
use crate::dead_letters::SqlDeadLetters;
use crate::deliveries::{SqlDeliveries, SqlReconciliation};
use crate::error::Error;
use crate::inbox::SqlInbox;
use crate::messages::{Labels, SqlMessages};
use crate::migrate;
use crate::open::Tables;
use crate::sql::{Sql, take};

/// Which database a URL names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A file, for one process.
    Sqlite,
    /// A server, for any number of processes.
    Postgres,
}

impl Kind {
    pub(crate) fn of(url: &str) -> Option<Self> {
        if url.starts_with("sqlite:") {
            Some(Self::Sqlite)
        } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            Some(Self::Postgres)
        } else {
            None
        }
    }
}

/// An open database. Clones share its connections; a SQLite file is released when the last clone and the last port made from
/// it are gone.
#[derive(Clone, Debug)]
pub struct Database {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) sql: Sql,
    pub(crate) clock: DatabaseClock,
    pub(crate) labels: Labels,
    /// How many handlers' transactions may be open ([`SqlInbox::at_a_time`]).
    pub(crate) transactions: usize,
    /// One for each of them that is not open.
    pub(crate) turns: Arc<Semaphore>,
    /// Held, never used: it keeps other processes away from a SQLite file.
    _lock: Option<std::fs::File>,
}

impl Database {
    /// Opens a database; a [`Config`] or a URL. Makes no table: see [`Self::migrate_messages`] and its like.
    ///
    /// # Errors
    /// [`Error`]: a URL of another kind, a SQLite file that another process holds, a server that cannot be reached or refuses.
    pub async fn connect(config: impl Into<Config>) -> Result<Self, Error> {
        let config = config.into();
        let url = config.url.expose();
        let (sql, lock) = match Kind::of(url) {
            Some(Kind::Sqlite) => sqlite::open(url, &config).await?,
            Some(Kind::Postgres) => (postgres::open(url, &config).await?, None),
            None => return Err(Error::Url("it begins with neither sqlite: nor postgres://".to_owned())),
        };
        let transactions = crate::inbox::at_a_time(&config);
        let turns = Arc::new(Semaphore::new(transactions));
        let (clock, labels) = (DatabaseClock::default(), Labels::default());
        Ok(Self { inner: Arc::new(Inner { sql, clock, labels, transactions, turns, _lock: lock }) })
    }

    /// Upstream's tables in this database.
    #[must_use]
    pub fn messages(&self) -> SqlMessages {
        SqlMessages::new(self.clone())
    }

    /// MSG DB's tables in this database. `overdue_ms` is the policy's figure of that name.
    #[must_use]
    pub fn deliveries(&self, overdue_ms: u64) -> SqlDeliveries {
        SqlDeliveries::new(self.clone(), overdue_ms)
    }

    /// MSG DB's dead letters, in this database.
    #[must_use]
    pub fn dead_letters(&self) -> SqlDeadLetters {
        SqlDeadLetters::new(self.clone())
    }

    /// MSG DB's tables in this database, as reconciliation reads them.
    #[must_use]
    pub fn reconciliation(&self) -> SqlReconciliation {
        SqlReconciliation::new(self.clone())
    }

    /// The audit, which is a table of MSG DB.
    #[must_use]
    pub fn audit(&self) -> SqlAudit {
        SqlAudit::new(self.clone())
    }

    /// Downstream's tables in this database.
    #[must_use]
    pub fn inbox(&self) -> SqlInbox {
        SqlInbox::new(self.clone())
    }

    /// Makes or changes upstream's tables, all named `countersign_…`. Safe to call at every start, by any number of replicas.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn migrate_messages(&self) -> Result<(), Error> {
        migrate::up(self.sql(), Tables::Messages).await
    }

    /// Makes or changes MSG DB's tables, all named `countersign_…`. Safe to call at every start, by any number of replicas.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn migrate_deliveries(&self) -> Result<(), Error> {
        migrate::up(self.sql(), Tables::Deliveries).await
    }

    /// Makes or changes downstream's tables, all named `countersign_…`. Safe to call at every start, by any number of replicas.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn migrate_inbox(&self) -> Result<(), Error> {
        migrate::up(self.sql(), Tables::Inbox).await
    }

    /// Whether the database answers and may be written: for readiness. On SQLite the only connection that writes may be in use for long, so
    /// reading tells.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn ping(&self) -> Result<(), Error> {
        const PINGING: &str = "pinging the database";
        if self.sql().backend == DbBackend::Sqlite {
            return Ok(self.sql().read(PINGING, "SELECT 1", Vec::new()).await.map(drop)?);
        }
        let query = "SELECT pg_is_in_recovery() AS standby, current_setting('transaction_read_only') = 'on' AS read_only";
        let rows = self.sql().write_returning(PINGING, query, Vec::new()).await?;
        let says = |column| rows.first().map_or(Ok(false), |row| take::<bool>(row, column));
        let words = match (says("standby")?, says("read_only")?) {
            (true, _) => "it is a standby, which cannot be written",
            (_, true) => "it is read-only (default_transaction_read_only)",
            _ => return Ok(()),
        };
        Err(Error::Database(PortError::Unavailable("the database", words.into())))
    }

    /// Waits until the connections are closed. Calls made from now on fail; without this they close when the last user is gone.
    pub async fn close(&self) {
        for connections in [&self.sql().read, &self.sql().write] {
            // It only reports that it was closed before.
            let _ = connections.close_by_ref().await;
        }
    }

    pub(crate) fn sql(&self) -> &Sql {
        &self.inner.sql
    }
}
