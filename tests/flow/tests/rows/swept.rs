//! Every check is lost, in its tier or where it was due, and the messages with them: what callback has a row of is found by the sweep.

use anyhow::ensure;
use countersign_flow::{Crew, Flow, PATIENCE, Setup};
use countersign_launcher::{SUBSCRIPTION, Which, wait_until};
use serde_json::json;

use super::{GRACE_MS, book_has, ordered};

/// Messages that were held when their consumer died.
const HELD: u32 = 20;
/// Where checks may be.
const CHECKS: &str = "countersign.checks";
const TIERS: [u64; 3] = [500, 1_000, 2_000];

/// All of them are held by a consumer that dies; then messages and checks are lost together while no callback is there.
async fn lost_with_their_checks(flow: &mut Flow) -> anyhow::Result<Vec<String>> {
    flow.figure("probe_grace_ms", GRACE_MS)?;
    // Longer than the test lasts.
    flow.system.behave(&json!({ "delay_ms": 600_000 })).await?;
    flow.start(&Which::ALL).await?;
    let ids = flow.send(0, HELD).await?;
    flow.all_in_state(&ids, "processing").await?;
    flow.system.kill9(Which::Downstream);
    flow.queue_reaches(SUBSCRIPTION, HELD).await?;
    flow.system.stop(Which::Callback).await?;
    // With it ends what it may have had in hand; its probes lie in the work queue.
    ensure!(flow.ground.purge(SUBSCRIPTION).await? >= HELD, "the purge did not hit all");
    let due = async || {
        for tier in TIERS {
            if flow.ground.queue_depth(&format!("{CHECKS}.{tier}")).await.map_or(true, |depth| depth > 0) {
                return false;
            }
        }
        flow.ground.queue_depth(CHECKS).await.is_ok_and(|depth| depth > 0)
    };
    wait_until("the checks to come due", PATIENCE, due).await?;
    ensure!(flow.ground.purge(CHECKS).await? > 0, "there was no check to lose");
    flow.system.behave(&json!({})).await?;
    flow.start(&[Which::Downstream]).await?;
    Ok(ids)
}

/// Each was sent again once, at its second try, and done once.
async fn each_was_found_and_sent_again_once(flow: &Flow, ids: &[String]) -> anyhow::Result<()> {
    flow.all_signed(ids).await?;
    for id in ids {
        flow.resent_once_because(id, SUBSCRIPTION, "lost: what was sent before probe ").await?;
    }
    let orders = ordered(flow).await?;
    ensure!((orders - f64::from(HELD)).abs() < f64::EPSILON, "upstream was given {orders} orders for {HELD} messages");
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    book_has(flow, u64::from(HELD), &ids).await
}

on_both!(what_has_lost_its_check_is_found_by_the_sweep);

async fn what_has_lost_its_check_is_found_by_the_sweep(test: &str, setup: Setup) -> anyhow::Result<()> {
    let mut flow = Flow::new(test, setup).await?;
    let ids = lost_with_their_checks(&mut flow).await?;
    flow.start(&[Which::Callback]).await?;
    each_was_found_and_sent_again_once(&flow, &ids).await?;
    let swept = flow.system.metric(Which::Callback, "countersign_swept_total").await?;
    ensure!(swept >= f64::from(HELD), "{swept} rows were swept");
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_sweepers_double_nothing() -> anyhow::Result<()> {
    let mut flow = Flow::new("three_sweepers", Setup { postgres: true, max_batch: 1 }).await?;
    let ids = lost_with_their_checks(&mut flow).await?;
    let mut crew = Crew::of_service(&flow, Which::Callback, 2)?;
    crew.start().await?;
    flow.start(&[Which::Callback]).await?;
    each_was_found_and_sent_again_once(&flow, &ids).await?;
    let own = flow.system.metric(Which::Callback, "countersign_swept_total").await?;
    let logs = crew.sound_logs()?;
    let sweepers = logs.iter().filter(|log| log.contains("overdue deliveries are checked anew")).count();
    println!("{own} rows were swept by one of three, {sweepers} others have swept too");
    ensure!(own > 0.0 || sweepers > 0, "nobody has swept");
    crew.stop().await?;
    flow.finish().await
}
