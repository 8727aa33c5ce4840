//! A downstream whose handler runs within the guard's transaction: takes an order's pieces off the stock and notes the movement, once.
//!
//! `cargo run -p countersign-downstream --example stock -- --config stock.toml`; the topology needs a subscription `inventory.orders` with
//! `guard = "inbox"` or `"tiered"`. Its tables are in the database of `[database]`, SQLite or PostgreSQL, and so is the guard's. Nothing in them
//! recognises a message that comes twice: that is what the guard is for.

use std::process::ExitCode;

use countersign_downstream::{
    Config, Event, Failure, Handled, HandlerContext, Service, Transaction, TransactionHandler, async_trait,
};
use sea_orm::{ConnectOptions, ConnectionTrait as _, Database, Statement, Value};
use serde::Deserialize;

const SCHEMA: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS stock (item VARCHAR(64) PRIMARY KEY, pieces BIGINT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS movement (message_id VARCHAR(36) NOT NULL, item VARCHAR(64) NOT NULL, pieces BIGINT NOT NULL)",
];
const TAKE: &str = "UPDATE stock SET pieces = pieces - $1 WHERE item = $2 AND pieces >= $1";
const NOTE: &str = "INSERT INTO movement (message_id, item, pieces) VALUES ($1, $2, $3)";

/// The body of a message.
#[derive(Debug, Deserialize)]
struct Order {
    item: String,
    pieces: u32,
}

struct Stock;

#[async_trait]
impl TransactionHandler for Stock {
    async fn handle(&self, message: &Event, context: &HandlerContext, transaction: &Transaction) -> Result<Handled, Failure> {
        let Order { item, pieces } = serde_json::from_slice(&message.body).map_err(Failure::reject)?;
        let connection = transaction.connection();
        let run = async |sql: &str, values: Vec<Value>| {
            let statement = Statement::from_sql_and_values(connection.get_database_backend(), sql, values);
            connection.execute_raw(statement).await.map_err(Failure::retry)
        };
        let taken = run(TAKE, vec![pieces.into(), item.as_str().into()]).await?;
        if taken.rows_affected() == 0 {
            return Err(Failure::retry(format_args!("there are not {pieces} pieces of {item} on stock")));
        }
        run(NOTE, vec![context.idempotency_key.as_str().into(), item.into(), pieces.into()]).await?;
        Ok(Handled::Done)
    }
}

/// Makes the tables of the business; those of the guard are made by the service.
async fn prepare(url: &str) -> anyhow::Result<()> {
    let mut options = ConnectOptions::new(url);
    options.max_connections(1).sqlx_logging(false).map_sqlx_sqlite_opts(|options| options.create_if_missing(true));
    let database = Database::connect(options).await?;
    for table in SCHEMA {
        database.execute_unprepared(table).await?;
    }
    Ok(database.close().await?)
}

fn main() -> ExitCode {
    countersign_boot::launch("stock", async |config: Config, context| {
        prepare(config.database.url.expose()).await?;
        Ok(Service::new(config).handle_in_transaction("inventory.orders", Stock).run(context).await?)
    })
}
