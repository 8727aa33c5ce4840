//! An upstream refuses with every status, or hangs, or says that it has sent again what it has not: errors spend nothing, and a lie is found out.

use anyhow::ensure;
use countersign_flow::{Flow, PATIENCE, Setup};
use countersign_launcher::{SUBSCRIPTION, Which, wait_until};

use super::reached_through;
use super::stand_in::{FAILURES, Manner, StandIn};

/// Messages that are lost.
const LOST: u32 = 5;
/// Failed calls in a row that open the breaker.
const BREAKER_FAILURES: usize = 3;

/// A flow whose upstream is reached through a stand-in, and messages that are lost.
async fn lost(test: &str, manner: Manner) -> anyhow::Result<(Flow, StandIn, Vec<String>)> {
    let mut flow = Flow::new(test, Setup { postgres: true, max_batch: 256 }).await?;
    let line = StandIn::before(&flow.system.grpc_url(Which::Upstream), manner)?;
    reached_through(&flow, &[("shop", &line)])?;
    let keys = format!("breaker_failures = {BREAKER_FAILURES}\nbreaker_open_ms = 200");
    flow.configure(Which::Callback, "[callback]", &keys)?;
    flow.start(&[Which::Callback, Which::Upstream]).await?;
    let ids = flow.send(0, LOST).await?;
    flow.queue_reaches(SUBSCRIPTION, LOST).await?;
    ensure!(flow.ground.purge(SUBSCRIPTION).await? == LOST, "the purge did not hit all");
    flow.start(&[Which::Downstream]).await?;
    Ok((flow, line, ids))
}

async fn called(line: &StandIn, calls: usize) -> anyhow::Result<()> {
    wait_until(&format!("{calls} calls"), 3 * PATIENCE, async || line.count().0 >= calls).await
}

async fn counted(flow: &Flow, outcome: &str) -> anyhow::Result<f64> {
    let label = format!("outcome=\"{outcome}\"");
    flow.system.look().metric(Which::Callback, "countersign_resend_orders_total", &label).await
}

/// Every one is at this try, in this state.
async fn all_are(flow: &Flow, number: u32, state: &str) -> anyhow::Result<()> {
    for delivery in flow.deliveries().await? {
        let at = delivery.attempt.as_ref().map_or(0, |attempt| attempt.number);
        ensure!(at == number && delivery.state == state, "wanted {state} at try {number}: {delivery:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_status_spends_an_attempt() -> anyhow::Result<()> {
    let (flow, line, ids) = lost("storm_status", Manner::Fails).await?;
    called(&line, FAILURES.len()).await?;
    all_are(&flow, 2, "resending").await?;
    ensure!(counted(&flow, "call_failed").await? >= f64::from(LOST), "failures are not counted");
    line.will(Manner::Forwards);
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    all_are(&flow, 2, "done").await?;
    let resent = counted(&flow, "resent").await? - f64::from(LOST);
    ensure!(resent == 0.0, "{resent} resends more than lost messages");
    let log = flow.system.log_of(Which::Callback)?;
    ensure!(log.contains("the breaker opened"), "{} calls failed in a row, and the breaker stayed closed", FAILURES.len());
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_hangs_spends_no_attempt_and_is_found_well_again() -> anyhow::Result<()> {
    let (flow, line, ids) = lost("storm_hangs", Manner::Hangs).await?;
    called(&line, BREAKER_FAILURES + 1).await?;
    all_are(&flow, 2, "resending").await?;
    line.will(Manner::Forwards);
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    all_are(&flow, 2, "done").await?;
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resend_that_was_only_claimed_is_found_out_by_the_sweep() -> anyhow::Result<()> {
    let (flow, line, ids) = lost("storm_lies", Manner::Lies).await?;
    flow.all_in_state(&ids, "resent").await?;
    all_are(&flow, 2, "resent").await?;
    line.will(Manner::Forwards);
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    all_are(&flow, 3, "done").await?;
    ensure!(flow.system.metric(Which::Callback, "countersign_swept_total").await? >= f64::from(LOST), "found by something else");
    flow.finish().await
}
