//! Downstream is asked to stop under load: within its grace, or with a handler that hangs for longer than that.

use std::time::Duration;

use anyhow::ensure;
use countersign_flow::{Flow, PATIENCE, Setup};
use countersign_launcher::{Which, wait_until};
use serde_json::json;
use tokio::time::Instant;

/// Orders, sent in calls of [`CALL`].
const ORDERS: u32 = 2_000;
const CALL: u32 = 500;
/// How slow the handler is, milliseconds.
const SLOW_MS: u64 = 60;
/// So many effects there are when the signal comes.
const FIRST: u64 = 300;
/// Downstream's own grace when nothing is configured.
const GRACE: Duration = Duration::from_secs(20);
const TWICE: &str = "the effect may have happened twice";

/// Waits until callback has as many deliveries done as there are effects.
async fn every_effect_is_signed(flow: &Flow) -> anyhow::Result<usize> {
    let effects = flow.system.effects().await?;
    let mut done = 0;
    let signed = wait_until("a receipt for every effect", PATIENCE, async || {
        let Ok(deliveries) = flow.deliveries().await else { return false };
        done = deliveries.iter().filter(|delivery| delivery.state == "done").count();
        done as u64 >= effects.distinct
    });
    signed.await?;
    ensure!(done as u64 == effects.total, "{done} are signed, {effects:?}");
    Ok(done)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_it_finishes_what_it_handles_signs_it_and_gives_back_the_rest() -> anyhow::Result<()> {
    let mut flow = Flow::new("sigterm", Setup { postgres: false, max_batch: 256 }).await?;
    flow.system.behave(&json!({ "delay_ms": SLOW_MS })).await?;
    flow.start(&Which::ALL).await?;
    let mut ids = Vec::new();
    for first in (0..ORDERS).step_by(CALL as usize) {
        ids.extend(flow.send(first, CALL).await?);
    }
    flow.effects_reach(FIRST).await?;
    let began = Instant::now();
    // It has to end with success.
    flow.system.stop(Which::Downstream).await?;
    let took = began.elapsed();
    ensure!(took < GRACE, "it took {took:?}");

    // What was being handled is finished, signed and acked; the rest is in the queue, and nobody has it.
    let counts = flow.system.look().counts().await?;
    ensure!(counts.in_flight == 0 && counts.calls == counts.effects, "{counts:?}");
    ensure!(counts.effects < u64::from(ORDERS), "it was too late to stop in the middle: {counts:?}");
    let done = every_effect_is_signed(&flow).await?;
    let left = flow.work_queue_depth().await?;
    let rest = ORDERS - u32::try_from(done)?;
    // Callback's probes may be among them.
    ensure!(left >= rest, "{rest} orders have had no effect, {left} messages are in the queue");

    flow.start(&[Which::Downstream]).await?;
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    let calls = flow.system.effects().await?.calls;
    ensure!(calls == u64::from(ORDERS), "{calls} calls for {ORDERS} orders");
    let log = flow.system.log_of(Which::Downstream)?;
    ensure!(!log.contains(TWICE) && !log.contains("grace is over"), "a stop in good order leaves nothing in doubt");
    println!("stopped after {took:?}: {done} done, {left} left in the queue");
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_hangs_for_longer_than_the_grace_is_left_and_its_message_comes_again() -> anyhow::Result<()> {
    let mut flow = Flow::new("sigterm_hang", Setup { postgres: false, max_batch: 256 }).await?;
    let file = flow.ground.path("downstream.toml");
    std::fs::write(&file, format!("{}\n[shutdown]\ngrace_ms = 1500\n", std::fs::read_to_string(&file)?))?;
    flow.system.behave(&json!({ "delay_after_ms": 60_000, "for": 1 })).await?;
    flow.start(&Which::ALL).await?;
    let ids = flow.send(0, 1).await?;
    // It has had its effect and gets no answer.
    flow.effects_reach(1).await?;
    let began = Instant::now();
    let process = flow.system.process(Which::Downstream)?;
    process.terminate()?;
    let status = process.wait(PATIENCE).await?;
    let took = began.elapsed();
    ensure!(took >= Duration::from_millis(1_500) && took < GRACE, "it took {took:?}");
    ensure!(status.success(), "dropping what hangs is an orderly stop, too: {status}");
    ensure!(process.log_text().contains("grace is over: hard stop"), "it was not a hard stop");

    flow.start(&[Which::Downstream]).await?;
    flow.all_signed(&ids).await?;
    let effects = flow.system.effects().await?;
    let counted = flow.system.metric(Which::Downstream, "countersign_possible_duplicates_total").await?;
    ensure!(effects.total == 2 && counted > 0.5 && counted < 1.5, "{counted} possible duplicates counted, {effects:?}");
    flow.finish().await
}
