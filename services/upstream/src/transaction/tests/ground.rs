//! A database of one's own with a business table in it, and processes on it.

use std::sync::Arc;
use std::time::Duration;

use countersign_delivery::ports::messages::Messages as _;
use countersign_delivery::{MessageId, Seq};
use countersign_launcher::{Exports, Postgres, create_database, wait_until};
use countersign_store::Database;
use countersign_testkit::build::upstream;
use sea_orm::{ConnectOptions, ConnectionTrait as _, DatabaseConnection, Statement};
use tempfile::TempDir;

use crate::config::UpstreamSection;
use crate::stage::{Process, Stage, section};

/// How long anything here may take on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Ground {
    pub stage: Stage,
    pub database: Database,
    pub url: String,
    admin: Option<String>,
    _server: Option<Postgres>,
    _dir: TempDir,
}

impl Ground {
    pub(super) async fn sqlite() -> Self {
        let dir = TempDir::new().unwrap();
        let url = format!("sqlite:{}", dir.path().join("shop.db").display());
        Self::at(url, None, None, dir).await
    }

    /// On the server that the environment names, or else on a private one.
    pub(super) async fn postgres(test: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let shared = Exports::from_environment().postgres;
        let server = if shared.is_none() { Some(Postgres::start(dir.path()).await.unwrap()) } else { None };
        let admin = shared.clone().or_else(|| server.as_ref().map(Postgres::url)).unwrap();
        let name = format!("transaction_{}_{test}", std::process::id());
        let url = create_database(&admin, &name[..name.len().min(60)]).await.unwrap();
        Self::at(url, shared, server, dir).await
    }

    async fn at(url: String, admin: Option<String>, server: Option<Postgres>, dir: TempDir) -> Self {
        let database = Database::connect(url.as_str()).await.unwrap();
        database.migrate_messages().await.unwrap();
        let stage = Stage::new();
        let ground = Self { stage, database, url, admin, _server: server, _dir: dir };
        ground.session().await.execute_unprepared("CREATE TABLE business (name TEXT PRIMARY KEY)").await.unwrap();
        ground
    }

    /// A process with short pauses.
    pub(super) fn start(&self) -> Process {
        self.start_with(UpstreamSection { heartbeat_ms: 50, ..section() })
    }

    pub(super) fn start_with(&self, section: UpstreamSection) -> Process {
        self.start_on(section, self.database.clone())
    }

    /// On another connection to the database.
    pub(super) fn start_on(&self, section: UpstreamSection, database: Database) -> Process {
        let messages = Arc::new(database.messages().sweeping_after(section.outbox_sweep_after_ms));
        let Process { upstream, context } = self.stage.start_between(section, messages.clone(), messages);
        Process { upstream: upstream.with_database(database), context }
    }

    /// A session that is not ours.
    pub(super) async fn session(&self) -> DatabaseConnection {
        let mut options = ConnectOptions::new(&self.url);
        options.max_connections(1).sqlx_logging(false);
        sea_orm::Database::connect(options).await.unwrap()
    }

    /// The business rows, sorted.
    pub(super) async fn business(&self) -> Vec<String> {
        let session = self.session().await;
        let query = Statement::from_string(session.get_database_backend(), "SELECT name FROM business ORDER BY name");
        let rows = session.query_all_raw(query).await.unwrap();
        rows.iter().map(|row| row.try_get("", "name").unwrap()).collect()
    }

    /// The ids in the table, tombstones left out.
    pub(super) async fn stored(&self) -> Vec<MessageId> {
        let messages = self.database.messages();
        let mut ids = Vec::new();
        for heartbeat in messages.heartbeats(&upstream("shop")).await.unwrap() {
            let rows = messages.scan(heartbeat.incarnation, Seq::FIRST, 1_000).await.unwrap();
            ids.extend(rows.into_iter().map(|stored| stored.message.id));
        }
        ids
    }

    /// The ids in the work queue.
    pub(super) fn delivered(&self) -> Vec<String> {
        self.stage.delivered("orders")
    }

    /// Waits until the newest incarnation has this watermark: nothing below it is unsettled.
    pub(super) async fn watermark_reaches(&self, seq: u64) {
        let messages = self.database.messages();
        let what = format!("watermark {seq}");
        let reached = wait_until(&what, PATIENCE, async || {
            let rows = messages.heartbeats(&upstream("shop")).await.unwrap_or_default();
            rows.iter().any(|row| row.watermark == Seq(seq))
        });
        reached.await.unwrap();
    }
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
