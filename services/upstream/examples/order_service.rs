//! An order service that embeds upstream: an order and the message about it are one commit, and the message's body is not stored again.
//!
//! `cargo run -p countersign-upstream --example order_service -- --config orders.toml`, a configuration of upstream, then
//! `curl -sS --fail-with-body 127.0.0.1:7111/orders --json '{"order_id":"A-1","item":"pears","quantity":3}'`. A topology that gives
//! `order.created` on the exchange `orders` to a subscription is needed. Upstream's own APIs are served too: callback's orders come there.

use std::process::ExitCode;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use countersign_boot::{Context, Role};
use countersign_upstream::{
    Config, MessageSource, NewMessage, Rebuilt, Refusal, Service, SourceError, TransactionError, Upstream, Wanted, async_trait,
};
use sea_orm::{ConnectOptions, ConnectionTrait as _, Database, DatabaseConnection, DbErr, Statement, Value};
use serde::{Deserialize, Serialize};

const CREATED: &str = "order.created";
const SCHEMA: &str =
    "CREATE TABLE IF NOT EXISTS orders (order_id VARCHAR(64) PRIMARY KEY, item VARCHAR(200) NOT NULL, quantity BIGINT NOT NULL)";
const PLACE: &str = "INSERT INTO orders (order_id, item, quantity) VALUES ($1, $2, $3) ON CONFLICT (order_id) DO NOTHING";
const FIND: &str = "SELECT item, quantity FROM orders WHERE order_id = $1";

/// An order, as its customer sends it, as it travels, and as it stands in its table.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    #[serde(rename = "order_id")]
    id: String,
    item: String,
    quantity: i64,
}

/// Why an order was not placed.
#[derive(Debug, thiserror::Error)]
enum ShopError {
    #[error("the order cannot be stored")]
    Database(#[from] DbErr),
    #[error("the order cannot be written as JSON")]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Message(#[from] Refusal),
}

/// Stores the order and the message about it, or neither. The same order again is answered as the first time.
async fn place(State(upstream): State<Upstream>, Json(order): Json<Order>) -> (StatusCode, String) {
    let placed = upstream.transaction(|tx| {
        Box::pin(async move {
            let body = serde_json::to_vec(&order)?;
            let idempotency_key = order.id.clone();
            let values = [order.id.into(), order.item.into(), Value::from(order.quantity)];
            let connection = tx.connection();
            connection.execute_raw(Statement::from_sql_and_values(connection.get_database_backend(), PLACE, values)).await?;
            let message = NewMessage {
                exchange: "orders".into(),
                routing_key: CREATED.into(),
                kind: CREATED.into(),
                content_type: "application/json".into(),
                body: body.into(),
                idempotency_key,
                ..NewMessage::default()
            };
            Ok::<_, ShopError>(tx.send(message).await?.id)
        })
    });
    match placed.await {
        Ok(committed) => (StatusCode::CREATED, committed.value.to_string()),
        Err(error) => (status(&error), error.to_string()),
    }
}

fn status(error: &TransactionError<ShopError>) -> StatusCode {
    match error {
        TransactionError::Work(ShopError::Message(Refusal::Conflict { .. })) => StatusCode::CONFLICT,
        TransactionError::Work(ShopError::Message(refusal)) if !refusal.is_transient() => StatusCode::BAD_REQUEST,
        TransactionError::Work(ShopError::Json(_)) => StatusCode::BAD_REQUEST,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// The orders, from which the bodies of their messages are made again.
struct Orders {
    database: DatabaseConnection,
}

#[async_trait]
impl MessageSource for Orders {
    async fn rebuild(&self, wanted: &Wanted) -> Result<Option<Rebuilt>, SourceError> {
        let id = wanted.idempotency_key.as_ref().ok_or("an order without a key")?.as_str();
        let find = Statement::from_sql_and_values(self.database.get_database_backend(), FIND, [id.into()]);
        let Some(row) = self.database.query_one_raw(find).await? else { return Ok(None) };
        let (item, quantity) = (row.try_get("", "item")?, row.try_get("", "quantity")?);
        let body = serde_json::to_vec(&Order { id: id.into(), item, quantity })?;
        Ok(Some(Rebuilt { body: body.into(), fingerprint: None }))
    }
}

fn main() -> ExitCode {
    countersign_boot::launch("order_service", async |config: Config, context: Context| {
        // A connection of its own for reading; it connects when it is first needed, since the database may be away now, or not there yet.
        let mut options = ConnectOptions::new(config.database.url.expose());
        options.connect_lazy(true).sqlx_logging(false).map_sqlx_sqlite_opts(|options| options.create_if_missing(true));
        let orders = Orders { database: Database::connect(options).await? };
        let upstream = Service::new(config).source(CREATED, Arc::new(orders)).serve(&context).await?;
        let prepared =
            upstream.transaction(|tx| Box::pin(async move { tx.connection().execute_unprepared(SCHEMA).await.map(drop) }));
        prepared.await?;
        context.http(Role::Producer, Router::new().route("/orders", post(place)).with_state(upstream));
        Ok(())
    })
}
