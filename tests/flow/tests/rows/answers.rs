//! What upstream answers to an order: it does not know the id, once or twice, or has another content under it.

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, PATIENCE, Setup};
use countersign_launcher::{SUBSCRIPTION, Which, wait_until};
use sea_orm::prelude::Uuid;
use sea_orm::{ConnectionTrait as _, Statement, Value};

use super::{book_has, delays, lost};

/// Between two looks, milliseconds: time to put a row back, on a busy machine.
const RECHECK_MS: &str = "5000";
/// An id that nobody has minted.
const ELSEWHERE: &str = "019abcde-0000-7000-8000-000000000001";

/// Changes upstream's table behind its back; it has to hit one row.
async fn change(flow: &Flow, sql: &str, values: Vec<Value>) -> anyhow::Result<()> {
    let database = flow.upstream_database().await?;
    let statement = Statement::from_sql_and_values(database.get_database_backend(), sql, values);
    let hit = database.execute_raw(statement).await?.rows_affected();
    database.close().await?;
    ensure!(hit == 1, "{sql} hit {hit} rows");
    Ok(())
}

/// Gives the message another id in upstream's table.
async fn rename(flow: &Flow, from: &str, to: &str) -> anyhow::Result<()> {
    let ids = vec![to.parse::<Uuid>()?.into(), from.parse::<Uuid>()?.into()];
    change(flow, "UPDATE countersign_message SET id = $1 WHERE id = $2", ids).await
}

/// How often upstream has answered so.
async fn answered(flow: &Flow, word: &str) -> anyhow::Result<f64> {
    let label = format!("outcome=\"{word}\"");
    flow.system.look().metric(Which::Callback, "countersign_resend_orders_total", &label).await
}

on_both!(an_id_that_upstream_does_not_know_once_is_asked_for_again);

async fn an_id_that_upstream_does_not_know_once_is_asked_for_again(test: &str, setup: Setup) -> anyhow::Result<()> {
    let mut flow = Flow::new(test, setup).await?;
    delays(&flow, "recheck_delays_ms", "500, 1000, 2000", RECHECK_MS)?;
    let ids = lost(&mut flow, 1).await?;
    rename(&flow, &ids[0], ELSEWHERE).await?;
    flow.start(&[Which::Downstream, Which::Callback]).await?;
    let unknown = async || answered(&flow, "unknown_id").await.is_ok_and(|answers| answers > 0.0);
    wait_until("upstream not to know it", PATIENCE, unknown).await?;
    rename(&flow, ELSEWHERE, &ids[0]).await?;
    flow.all_signed(&ids).await?;
    // One order, repeated as the same try: an answer like that spends none.
    let told = flow.told(&ids[0], SUBSCRIPTION).await?;
    let reasons: Vec<&str> = told.iter().filter(|said| said.what == "resending").map(|said| said.why.as_str()).collect();
    let as_expected = reasons.first().is_some_and(|why| why.starts_with("lost: "))
        && reasons.iter().skip(1).all(|why| !why.starts_with("lost: "))
        && told.iter().all(|said| said.attempt <= 2);
    ensure!(as_expected, "{told:?}");
    let answers = (answered(&flow, "unknown_id").await?, answered(&flow, "resent").await?);
    ensure!(answers == (1.0, 1.0), "unknown and sent: {answers:?}");
    book_has(&flow, 1, &[&ids[0]]).await?;
    flow.finish().await
}

on_both!(an_id_that_upstream_does_not_know_twice_is_parked);

async fn an_id_that_upstream_does_not_know_twice_is_parked(test: &str, setup: Setup) -> anyhow::Result<()> {
    let mut flow = Flow::new(test, setup).await?;
    let ids = lost(&mut flow, 1).await?;
    rename(&flow, &ids[0], ELSEWHERE).await?;
    flow.start(&[Which::Downstream, Which::Callback]).await?;
    flow.all_in_state(&ids, "parked").await?;
    flow.parked_because(&ids[0], SUBSCRIPTION, "unknown_id").await?;
    let told = flow.told(&ids[0], SUBSCRIPTION).await?;
    ensure!(told.iter().all(|said| said.what != "resent" && said.attempt <= 2), "{told:?}");
    let answers = (answered(&flow, "unknown_id").await?, answered(&flow, "resent").await?);
    ensure!(answers == (2.0, 0.0), "unknown and sent: {answers:?}");
    book_has(&flow, 0, &[]).await?;
    // It is there again, and a human sends it on its way.
    rename(&flow, ELSEWHERE, &ids[0]).await?;
    flow.resend_by_hand(&ids[0]).await?;
    flow.all_signed(&ids).await?;
    book_has(&flow, 1, &[&ids[0]]).await?;
    flow.finish().await
}

on_both!(what_upstream_stores_under_another_fingerprint_is_parked_as_changed);

async fn what_upstream_stores_under_another_fingerprint_is_parked_as_changed(test: &str, setup: Setup) -> anyhow::Result<()> {
    let mut flow = Flow::new(test, setup).await?;
    let ids = lost(&mut flow, 1).await?;
    let id: Value = ids[0].parse::<Uuid>().context("no UUID")?.into();
    change(&flow, "UPDATE countersign_message SET fingerprint = $1 WHERE id = $2", vec![vec![7_u8; 16].into(), id]).await?;
    flow.start(&[Which::Downstream, Which::Callback]).await?;
    flow.all_in_state(&ids, "parked").await?;
    flow.parked_because(&ids[0], SUBSCRIPTION, "changed").await?;
    let told = flow.told(&ids[0], SUBSCRIPTION).await?;
    let orders = told.iter().filter(|said| said.what == "resending").count();
    ensure!(orders == 1 && told.iter().all(|said| said.what != "resent"), "{told:?}");
    book_has(&flow, 0, &[]).await?;
    flow.finish().await
}
