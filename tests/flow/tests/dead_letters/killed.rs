//! Callback dies (SIGKILL) with dead letters in its hands: stored and not acked, or ordered and not sent.

use anyhow::ensure;
use countersign_flow::{Flow, PATIENCE, Setup};
use countersign_launcher::{SUBSCRIPTION, Which};
use sea_orm::{ConnectionTrait as _, Statement};
use serde_json::json;

use super::redrive::rejected;
use super::{DEAD, QUARANTINE, dead, litter};
use crate::command::{SETUP, expect};

/// Of each kind.
const LETTERS: u32 = 20;
/// What one round of a redrive orders at its usual rate.
const ROUND: u32 = 10;

/// Letters as MSG DB's own table has them, whatever their state.
async fn rows(flow: &Flow) -> anyhow::Result<i64> {
    let database = flow.msg_database().await?;
    let count = Statement::from_string(database.get_database_backend(), "SELECT count(*) AS n FROM countersign_dead_letter");
    let row = database.query_one_raw(count).await?;
    database.close().await?;
    row.map_or(Ok(0), |row| Ok(row.try_get("", "n")?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_stored_and_not_acked_is_stored_once_on_sqlite() -> anyhow::Result<()> {
    what_was_stored_and_not_acked_is_stored_once("dead_stored_sqlite", false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_stored_and_not_acked_is_stored_once_on_postgres() -> anyhow::Result<()> {
    what_was_stored_and_not_acked_is_stored_once("dead_stored_postgres", true).await
}

async fn what_was_stored_and_not_acked_is_stored_once(test: &str, postgres: bool) -> anyhow::Result<()> {
    const POINT: &str = "callback.letters_after_store";
    let mut flow = Flow::new(test, Setup { postgres, ..SETUP }).await?;
    flow.start(&Which::ALL).await?;
    flow.system.stop(Which::Callback).await?;
    flow.system.behave(&json!({"status": 422})).await?;
    let ids = flow.send(0, LETTERS).await?;
    litter(&flow, SUBSCRIPTION, LETTERS).await?;
    flow.queue_reaches(DEAD, LETTERS).await?;
    flow.queue_reaches(QUARANTINE, LETTERS).await?;
    // Whoever comes to the point, from whichever queue.
    for life in 1..=2 {
        flow.system.spawn(Which::Callback, &format!("{POINT}=return"))?;
        flow.system.dies_at(Which::Callback, POINT, PATIENCE).await?;
        // What it had in hand is stored, and goes back: nothing was acked.
        ensure!(rows(&flow).await? > 0, "life {life} has stored nothing");
        flow.queue_reaches(DEAD, LETTERS).await?;
        flow.queue_reaches(QUARANTINE, LETTERS).await?;
    }
    flow.start(&[Which::Callback]).await?;
    flow.dead_letters_reach("", 2 * usize::try_from(LETTERS)?).await?;
    flow.queue_reaches(DEAD, 0).await?;
    flow.queue_reaches(QUARANTINE, 0).await?;
    ensure!(rows(&flow).await? == 2 * i64::from(LETTERS), "{} letters for {} deaths", rows(&flow).await?, 2 * LETTERS);
    let mut died: Vec<String> = flow.dead_letters(SUBSCRIPTION).await?.into_iter().map(|letter| letter.message_id).collect();
    let mut sent = ids.clone();
    died.sort();
    sent.sort();
    ensure!(died == sent, "not each has its letter: {died:?} for {sent:?}");
    flow.system.behave(&json!({})).await?;
    ensure!(dead(&flow, 0, "redrive", &["--all"]).await?["redriven"] == LETTERS, "not each was redriven");
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    flow.no_invariant_was_violated()?;
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redrive_that_is_left_is_carried_out_by_the_sweep_on_sqlite() -> anyhow::Result<()> {
    a_redrive_that_is_left_is_carried_out_by_the_sweep("dead_left_sqlite", false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redrive_that_is_left_is_carried_out_by_the_sweep_on_postgres() -> anyhow::Result<()> {
    a_redrive_that_is_left_is_carried_out_by_the_sweep("dead_left_postgres", true).await
}

/// The rows say ordered, no copy is published, and nobody repeats the command.
async fn a_redrive_that_is_left_is_carried_out_by_the_sweep(test: &str, postgres: bool) -> anyhow::Result<()> {
    const POINT: &str = "callback.after_redrive_stored";
    let mut flow = Flow::new(test, Setup { postgres, ..SETUP }).await?;
    let ids = rejected(&mut flow, ROUND).await?;
    flow.system.stop(Which::Callback).await?;
    flow.system.start(Which::Callback, &format!("{POINT}=1*return")).await?;
    dead(&flow, 3, "redrive", &["--all"]).await?;
    flow.system.dies_at(Which::Callback, POINT, PATIENCE).await?;
    let calls = flow.system.effects().await?.calls;
    ensure!(calls == u64::from(ROUND), "{calls} calls: one was sent before it was ordered");
    flow.start(&[Which::Callback]).await?;
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    for delivery in flow.deliveries().await? {
        let attempt = delivery.attempt.unwrap_or_default();
        ensure!(attempt.epoch == 1 && attempt.number == 1, "the kill cost an attempt: {delivery:?}");
        let told = flow.told(&delivery.message_id, SUBSCRIPTION).await?;
        let orders: Vec<_> = told.iter().filter(|said| said.what == "resending").collect();
        let (first, again) = orders.split_first().ok_or_else(|| anyhow::anyhow!("no order: {told:?}"))?;
        ensure!(first.why.contains("from its dead letter"), "{told:?}");
        ensure!(!again.is_empty() && again.iter().all(|said| said.why.starts_with("repeated: ")), "{told:?}");
    }
    // Each letter is settled by its delivery's end, and there is nothing left to redrive.
    flow.dead_letters_reach(SUBSCRIPTION, 0).await?;
    let settled = expect(&flow, 0, &["dead", "list", "--subscription", SUBSCRIPTION, "--state", "settled"]).await?;
    let letters = settled["letters"].as_array().map_or(0, Vec::len);
    ensure!(letters == ids.len(), "{letters} letters are settled: {settled}");
    flow.finish().await
}
