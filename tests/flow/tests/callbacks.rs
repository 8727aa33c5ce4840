//! Three callbacks over one MSG DB, one of which dies at each of its points while two hundred lost messages are sent again.

use anyhow::ensure;
use countersign_flow::{Crew, Flow, Setup};
use countersign_launcher::{SUBSCRIPTION, Which};

/// Lost after their confirms.
const LOST: u32 = 200;
/// Long enough for a busy machine: what was sent again is signed within it.
const GRACE_MS: u64 = 4_000;

/// Three callbacks are ready, the first of the crew with a failpoint; then the messages are lost, and downstream comes.
///
/// A callback that came after its checks would find them all in its sisters' hands.
async fn lost(test: &str, max_batch: u32, failpoint: &str) -> anyhow::Result<(Flow, Crew, Vec<String>)> {
    let mut flow = Flow::new(test, Setup { postgres: true, max_batch }).await?;
    flow.figure("probe_grace_ms", GRACE_MS)?;
    flow.start(&[Which::Upstream, Which::Callback]).await?;
    let mut crew = Crew::of_service(&flow, Which::Callback, 2)?;
    crew.spawn_with(0, failpoint)?;
    crew.spawn(1)?;
    crew.ready().await?;
    let ids = flow.send(0, LOST).await?;
    flow.queue_reaches(SUBSCRIPTION, LOST).await?;
    // On a busy machine the first probe is there by then, and goes with them.
    let purged = flow.ground.purge(SUBSCRIPTION).await?;
    ensure!(purged >= LOST, "the purge hit {purged}");
    flow.start(&[Which::Downstream]).await?;
    Ok((flow, crew, ids))
}

/// Every message is done once, and a crash has spent no attempt: each was lost once, so its second try is its last.
async fn each_is_done_at_its_second_try(flow: &Flow, ids: &[String]) -> anyhow::Result<()> {
    flow.all_signed(ids).await?;
    flow.each_effected_once(ids).await?;
    ensure!(flow.system.effects().await?.calls == u64::from(LOST), "one was handled twice");
    let attempts = flow.attempts().await?;
    ensure!(ids.iter().all(|id| attempts.get(id) == Some(&2)), "an attempt was spent: {attempts:?}");
    let told = flow.told(&ids[0], SUBSCRIPTION).await?;
    ensure!(told[0].what == "resending" && told[0].why.starts_with("lost: "), "{told:?}");
    ensure!(told.iter().skip(1).all(|said| said.what != "resending" || said.why.starts_with("repeated: ")), "{told:?}");
    Ok(())
}

async fn one_dies_at(test: &str, failpoint: &str) -> anyhow::Result<()> {
    let (flow, mut crew, ids) = lost(test, 1, &format!("{failpoint}=1*return")).await?;
    crew.dies_at(0, failpoint).await?;
    each_is_done_at_its_second_try(&flow, &ids).await?;
    crew.sound_logs()?;
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_dies_with_a_check_in_hand() -> anyhow::Result<()> {
    one_dies_at("callbacks_check", "callback.check_after_delivery").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_dies_between_attempt_and_call() -> anyhow::Result<()> {
    one_dies_at("callbacks_attempt", "callback.after_attempt_stored").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_dies_after_the_call() -> anyhow::Result<()> {
    one_dies_at("callbacks_call", "callback.after_call").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_dies_after_a_check_was_armed_again() -> anyhow::Result<()> {
    one_dies_at("callbacks_rearm", "callback.after_rearm").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_dies_with_receipts_in_hand() -> anyhow::Result<()> {
    one_dies_at("callbacks_receipt", "callback.receipt_after_delivery").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_dies_after_receipts_were_written() -> anyhow::Result<()> {
    one_dies_at("callbacks_persist", "callback.receipt_after_persist").await
}

/// The same checks come four times, to three callbacks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_that_come_several_times_to_several_callbacks_give_one_order_each() -> anyhow::Result<()> {
    let (flow, mut crew, ids) = lost("callbacks_same", 256, "").await?;
    let mut checks = Vec::new();
    for id in &ids {
        checks.push(flow.check_of(id).await?);
    }
    for _ in 0..3 {
        flow.checks_are_due(checks.clone()).await?;
    }
    each_is_done_at_its_second_try(&flow, &ids).await?;
    for id in &ids {
        flow.resent_once_because(id, SUBSCRIPTION, "lost: ").await?;
    }
    let ordered = flow.system.metric(Which::Upstream, "countersign_resends_total").await?;
    ensure!((ordered - f64::from(LOST)).abs() < f64::EPSILON, "upstream was given {ordered} orders for {LOST} messages");
    crew.stop().await?;
    crew.sound_logs()?;
    flow.finish().await
}
