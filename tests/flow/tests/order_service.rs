//! A Rust service that embeds upstream, with business rows and messages in one commit and bodies from its own table: the example that is
//! shipped. A message is processed once exactly if its order is there, and one whose order is gone or changed is shown to a human.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, PATIENCE, Setup, everywhere};
use countersign_launcher::{SUBSCRIPTION, Which};
use sea_orm::{ConnectOptions, ConnectionTrait as _, Database, DatabaseConnection, Statement};
use serde_json::json;

const SERVICE: &str = "order_service";

async fn start(flow: &mut Flow, failpoints: &str) -> anyhow::Result<()> {
    flow.system.spawn_as(Which::Upstream, SERVICE, failpoints)?;
    flow.system.ready(Which::Upstream).await
}

/// Places an order; its message's id. Tried again while the service is not there.
async fn place(flow: &Flow, number: u32) -> anyhow::Result<String> {
    let order = json!({"order_id": format!("A-{number}"), "item": "pears", "quantity": number});
    let url = format!("{}/orders", flow.system.http_url(Which::Upstream));
    let answer = reqwest::Client::new().post(url).json(&order).timeout(PATIENCE).send().await?;
    let (status, text) = (answer.status(), answer.text().await?);
    ensure!(status == reqwest::StatusCode::CREATED, "{status}: {text}");
    Ok(text)
}

async fn database(flow: &Flow) -> anyhow::Result<DatabaseConnection> {
    let file = std::fs::read_to_string(flow.ground.path("upstream.toml"))?;
    let url = file.lines().find_map(|line| line.strip_prefix("url = ").filter(|url| !url.contains("amqp")));
    let mut options = ConnectOptions::new(url.context("no database in upstream.toml")?.trim_matches(['"', '\'']));
    options.max_connections(1).sqlx_logging(false);
    Ok(Database::connect(options).await?)
}

/// The orders that are there, and the ids of their messages.
async fn placed(flow: &Flow) -> anyhow::Result<(BTreeSet<String>, Vec<String>)> {
    let database = database(flow).await?;
    let read = |sql: &str| Statement::from_string(database.get_database_backend(), sql);
    let orders = database.query_all_raw(read("SELECT order_id FROM orders")).await?;
    let orders = orders.iter().map(|row| row.try_get("", "order_id")).collect::<Result<_, _>>()?;
    let messages = database.query_all_raw(read("SELECT id FROM countersign_message WHERE id IS NOT NULL ORDER BY id")).await?;
    let ids = messages.iter().map(|row| Ok(row.try_get::<sea_orm::prelude::Uuid>("", "id")?.to_string()));
    Ok((orders, ids.collect::<anyhow::Result<_>>()?))
}

/// It dies in the middle of its fourth order; what was committed is processed, what was not is not there.
async fn killed_at(mut flow: Flow, failpoint: &str, is_there: bool) -> anyhow::Result<()> {
    flow.start(&[Which::Callback, Which::Downstream]).await?;
    // The first transaction makes the table.
    let before = if failpoint == "transaction.before_commit" { 4 } else { 3 };
    start(&mut flow, &format!("{failpoint}={before}*off->1*return")).await?;
    for number in 1..=3 {
        place(&flow, number).await?;
    }
    ensure!(place(&flow, 4).await.is_err(), "it dies before it answers");
    flow.system.dies_at(Which::Upstream, failpoint, PATIENCE).await?;
    let (orders, ids) = placed(&flow).await?;
    ensure!(orders.contains("A-4") == is_there, "{orders:?}");
    ensure!(ids.len() == orders.len(), "{} messages for {} orders", ids.len(), orders.len());

    start(&mut flow, "").await?;
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    // The customer who got no answer asks again, and gets one.
    let id = place(&flow, 4).await?;
    let (orders, ids) = placed(&flow).await?;
    ensure!(orders.len() == 4 && ids.len() == 4 && ids.contains(&id), "{orders:?} {ids:?}");
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    flow.finish().await
}

everywhere!(killed_before_the_commit_leaves_nothing);
async fn killed_before_the_commit_leaves_nothing(flow: Flow) -> anyhow::Result<()> {
    killed_at(flow, "transaction.before_commit", false).await
}

everywhere!(killed_after_the_commit_leaves_both);
async fn killed_after_the_commit_leaves_both(flow: Flow) -> anyhow::Result<()> {
    killed_at(flow, "upstream.after_store", true).await
}

/// Messages that are lost in the broker come again out of the orders' table; those whose order is not as it was are parked.
async fn lost_orders_come_out_of_their_table(mut flow: Flow) -> anyhow::Result<()> {
    start(&mut flow, "").await?;
    let mut ids = Vec::new();
    for number in 1..=3 {
        ids.push(place(&flow, number).await?);
    }
    let database_ = database(&flow).await?;
    let bodies = "SELECT 1 FROM countersign_message WHERE length(body) > 0";
    let stored = database_.query_all_raw(Statement::from_string(database_.get_database_backend(), bodies)).await?;
    ensure!(stored.is_empty(), "{} bodies are stored", stored.len());
    flow.queue_reaches(SUBSCRIPTION, 3).await?;
    flow.ground.purge(SUBSCRIPTION).await?;
    database_.execute_unprepared("DELETE FROM orders WHERE order_id = 'A-2'").await?;
    database_.execute_unprepared("UPDATE orders SET quantity = 30 WHERE order_id = 'A-3'").await?;
    flow.start(&[Which::Callback, Which::Downstream]).await?;
    flow.all_signed(&ids[..1]).await?;
    flow.all_in_state(&ids[1..], "parked").await?;
    flow.each_effected_once(&ids[..1]).await?;
    let deliveries = flow.deliveries().await?;
    for (id, reason) in [(&ids[1], "gone"), (&ids[2], "changed")] {
        let delivery = deliveries.iter().find(|delivery| delivery.message_id == *id).context("no delivery")?;
        ensure!(delivery.reason == reason, "{delivery:?}");
        flow.parked_because(id, SUBSCRIPTION, reason).await?;
        ensure!(flow.history(id, "resent").await? == 0, "{id} was sent again");
    }
    flow.finish().await
}

everywhere!(lost_orders_come_out_of_their_table);

/// A stock upstream that takes the place of the service publishes nothing without a body, and loses nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stock_upstream_leaves_what_it_cannot_rebuild() -> anyhow::Result<()> {
    let mut flow = Flow::new("stock_upstream", Setup { postgres: false, max_batch: 256 }).await?;
    start(&mut flow, "upstream.after_store=1*return").await?;
    ensure!(place(&flow, 1).await.is_err(), "it dies before it answers");
    flow.system.dies_at(Which::Upstream, "upstream.after_store", PATIENCE).await?;
    flow.start(&[Which::Callback, Which::Downstream, Which::Upstream]).await?;
    let said = countersign_launcher::wait_until("the stock upstream to find it", PATIENCE, async || {
        flow.system.log_of(Which::Upstream).is_ok_and(|log| log.contains("this process has no source"))
    });
    said.await?;
    flow.system.stop(Which::Upstream).await?;
    let (_, ids) = placed(&flow).await?;
    ensure!(flow.system.effects().await?.calls == 0, "something was delivered without its body");
    start(&mut flow, "").await?;
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    flow.finish().await
}
