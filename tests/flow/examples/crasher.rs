//! A downstream whose handler takes its process down with it whenever it sees a certain body, as a bug in a native library would: nothing is
//! unwound, nothing flushed. Every other message has its effect in a database of the handler's own, which does not tell repeats apart.

#![allow(clippy::disallowed_methods, reason = "stands for a user's own service, which reads the clock as it likes")]

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use countersign_downstream::{Config, Event, Failure, Handled, Handler, HandlerContext, Service, async_trait};
use sea_orm::{ConnectOptions, ConnectionTrait as _, Database, DatabaseConnection, DbBackend, Statement};

/// Its database, in the directory it is started in.
const DATABASE: &str = "sqlite://crasher.db?mode=rwc";
const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS effect (
    number INTEGER PRIMARY KEY AUTOINCREMENT, idempotency_key TEXT NOT NULL, at INTEGER NOT NULL)";
const EFFECT: &str = "INSERT INTO effect (idempotency_key, at) VALUES (?, ?)";
/// The body that it dies of.
const POISON: &[u8] = b"poison";

struct Crasher {
    database: DatabaseConnection,
}

impl Crasher {
    async fn open() -> anyhow::Result<Self> {
        let mut options = ConnectOptions::new(DATABASE);
        options.max_connections(1).sqlx_logging(false);
        let database = Database::connect(options).await?;
        for statement in ["PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL", SCHEMA] {
            database.execute_unprepared(statement).await?;
        }
        Ok(Self { database })
    }
}

#[async_trait]
impl Handler for Crasher {
    async fn handle(&self, message: &Event, context: &HandlerContext) -> Result<Handled, Failure> {
        if message.body.as_ref() == POISON {
            std::process::abort();
        }
        let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_err(Failure::retry)?.as_millis();
        let at_ms = i64::try_from(at_ms).map_err(Failure::retry)?;
        let values = [context.idempotency_key.as_str().into(), at_ms.into()];
        let effect = Statement::from_sql_and_values(DbBackend::Sqlite, EFFECT, values);
        self.database.execute_raw(effect).await.map_err(Failure::retry)?;
        Ok(Handled::Done)
    }
}

fn main() -> ExitCode {
    countersign_boot::launch("crasher", async |config: Config, context| {
        let crasher = Crasher::open().await?;
        Ok(Service::new(config).handle("inventory.orders", crasher).run(context).await?)
    })
}
