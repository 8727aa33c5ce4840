//! Databases of one's own, and what to put into them.

use std::time::{Duration, Instant};

use countersign_delivery::Timestamp;
use countersign_delivery::id::Seq;
use countersign_delivery::ports::messages::{Messages, Numbered};
use countersign_launcher::{Exports, Postgres, create_database};
use countersign_store::{Config, Database, SqlMessages};
use countersign_testkit::build::{a_message_with, incarnation, upstream};
use sea_orm::{ConnectOptions, ConnectionTrait, DatabaseConnection, DbBackend, Statement};
use tempfile::TempDir;

/// How long anything here may take before the test gives up.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// An empty, migrated database that is gone after the test.
pub struct Ground {
    pub database: Database,
    pub url: String,
    /// The server's administrative database, where one is shared; a private server is simply stopped.
    admin: Option<String>,
    _server: Option<Postgres>,
    _dir: TempDir,
}

impl Drop for Ground {
    /// Leaves nothing behind on a shared server. In a thread of its own, since a test's runtime cannot be waited in.
    fn drop(&mut self) {
        let Some(admin) = self.admin.take() else { return };
        let name = self.url.rsplit('/').next().unwrap_or_default().to_owned();
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let session = sea_orm::Database::connect(admin).await.unwrap();
                session.execute_unprepared(&format!("DROP DATABASE IF EXISTS \"{name}\" WITH (FORCE)")).await.unwrap();
            });
        });
        if dropping.join().is_err() {
            eprintln!("a test database was left behind");
        }
    }
}

impl Ground {
    /// On PostgreSQL: the server that the environment names, or else a private one.
    pub async fn postgres(test: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let shared = Exports::from_environment().postgres;
        let server = if shared.is_none() { Some(Postgres::start(dir.path()).await.unwrap()) } else { None };
        let admin = shared.clone().or_else(|| server.as_ref().map(Postgres::url)).unwrap();
        let moment = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros();
        let name = format!("store_{}_{moment}_{test}", std::process::id());
        let url = create_database(&admin, &name[..name.len().min(60)]).await.unwrap();
        Self::at(url, shared, server, dir).await
    }

    /// On SQLite, in a directory of its own.
    pub async fn sqlite() -> Self {
        let dir = TempDir::new().unwrap();
        let url = format!("sqlite:{}", dir.path().join("store.db").display());
        Self::at(url, None, None, dir).await
    }

    async fn at(url: String, admin: Option<String>, server: Option<Postgres>, dir: TempDir) -> Self {
        let database = Database::connect(url.as_str()).await.unwrap();
        database.migrate_messages().await.unwrap();
        database.migrate_deliveries().await.unwrap();
        database.migrate_inbox().await.unwrap();
        Self { database, url, admin, _server: server, _dir: dir }
    }

    /// The store again, with waits short enough for a test.
    pub async fn impatient(&self) -> Database {
        let config = Config { lock_timeout_ms: 200, statement_timeout_ms: 2_000, ..Config::from(self.url.as_str()) };
        Database::connect(config).await.unwrap()
    }

    /// The store again, with so many connections of its own: another process.
    pub async fn second(&self, max_connections: u32) -> Database {
        Database::connect(Config { max_connections, ..Config::from(self.url.as_str()) }).await.unwrap()
    }

    /// A session that is not ours.
    pub async fn session(&self) -> DatabaseConnection {
        let mut options = ConnectOptions::new(&self.url);
        options.max_connections(1).sqlx_logging(false);
        sea_orm::Database::connect(options).await.unwrap()
    }

    /// Upstream's tables with incarnation 1 open.
    pub async fn opened(&self) -> SqlMessages {
        let messages = self.database.messages();
        messages.open(&upstream("shop"), incarnation(1), Timestamp::default()).await.unwrap();
        messages
    }
}

/// Message `n` at seq `n`.
pub fn numbered(n: u64) -> Numbered {
    Numbered { seq: Seq(n), message: a_message_with(n, &format!("body {n}")) }
}

/// Waits until a session of `pattern`'s statement waits for a lock; returns its process id.
pub async fn waiting(session: &DatabaseConnection, pattern: &str) -> i32 {
    let sql =
        "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database() AND query LIKE $1";
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        let statement = Statement::from_sql_and_values(DbBackend::Postgres, sql, [pattern.into()]);
        if let Some(row) = session.query_one_raw(statement).await.unwrap() {
            return row.try_get("", "pid").unwrap();
        }
        tokio::task::yield_now().await;
    }
    panic!("nobody waits in {pattern}");
}

/// Ends a session the way an administrator does.
pub async fn terminate(session: &DatabaseConnection, pid: i32) {
    let statement = Statement::from_sql_and_values(DbBackend::Postgres, "SELECT pg_terminate_backend($1)", [pid.into()]);
    session.query_one_raw(statement).await.unwrap();
}
