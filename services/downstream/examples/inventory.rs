//! A downstream with a handler in Rust: takes orders off the stock, in a database of its own.
//!
//! `cargo run -p countersign-downstream --example inventory -- --config inventory.toml`; the topology needs a subscription `inventory.orders`,
//! as `deploy/local/topology.toml` has it.
//! The order and the note that it was taken are one transaction, so a message that comes again after a crash is recognised.

use std::process::ExitCode;

use countersign_downstream::{
    Config, Event, Failure, Guard, Handled, Handler, HandlerContext, OnUnknown, Service, Subscription, async_trait,
};
use sea_orm::{ConnectionTrait as _, Database, DatabaseConnection, DbBackend, Statement, TransactionTrait as _};

/// Its database; beside the process, or wherever it is started.
const DATABASE: &str = "sqlite://inventory.db?mode=rwc";
const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS taken (id TEXT PRIMARY KEY, body TEXT NOT NULL)";
const TAKE: &str = "INSERT INTO taken (id, body) VALUES (?, ?) ON CONFLICT (id) DO NOTHING";

struct Inventory {
    database: DatabaseConnection,
}

impl Inventory {
    async fn open() -> anyhow::Result<Self> {
        let database = Database::connect(DATABASE).await?;
        database.execute_unprepared("PRAGMA journal_mode = WAL").await?;
        database.execute_unprepared(SCHEMA).await?;
        Ok(Self { database })
    }
}

#[async_trait]
impl Handler for Inventory {
    async fn handle(&self, message: &Event, context: &HandlerContext) -> Result<Handled, Failure> {
        let order = std::str::from_utf8(&message.body).map_err(Failure::reject)?;
        let transaction = self.database.begin().await.map_err(Failure::retry)?;
        let values = [context.idempotency_key.as_str().into(), order.into()];
        let taking = Statement::from_sql_and_values(DbBackend::Sqlite, TAKE, values);
        let taken = transaction.execute_raw(taking).await.map_err(Failure::retry)?.rows_affected();
        // More of the business goes here, in the same transaction.
        transaction.commit().await.map_err(Failure::retry)?;
        Ok(if taken == 0 { Handled::Duplicate } else { Handled::Done })
    }
}

fn main() -> ExitCode {
    countersign_boot::launch("inventory", async |config: Config, context| {
        let inventory = Inventory::open().await?;
        let orders = Subscription::named("inventory.orders")
            .bind("orders", "order.created.#")
            .guard(Guard::Redis)
            .timeout_ms(5_000)
            .on_unknown(OnUnknown::Rerun);
        Ok(Service::new(config).subscribe(orders, inventory).run(context).await?)
    })
}
