//! A work queue with a long backlog is slow, not lost: nothing is sent again, not even when a consumer dies with its hands full.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::ensure;
use countersign_flow::{CHECK_DELAY_MS, Flow, PATIENCE, Setup};
use countersign_launcher::{Extras, Which, wait_until};
use serde_json::json;
use tokio::time::Instant;

use super::{is_long, resends, seconds, send_to};

/// Messages that are handled at a time, each for so long: a hundred a second at most.
const CONCURRENCY: u32 = 4;
const HANDLING_MS: u64 = 40;
/// Held by a consumer when it dies.
const PREFETCH: u32 = 200;

async fn backlog(test: &str, messages: u32, patience: Duration) -> anyhow::Result<()> {
    let downstream = format!("concurrency = {CONCURRENCY}\nprefetch = {PREFETCH}");
    let extras = Extras { downstream, ..Extras::default() };
    let mut flow = Flow::with_extras(test, Setup { postgres: true, max_batch: 256 }, extras).await?;
    flow.system.behave(&json!({ "delay_ms": HANDLING_MS })).await?;
    flow.start(&Which::ALL).await?;
    let began = Instant::now();
    let ids = send_to(&flow.system.grpc_url(Which::Upstream), 0, messages).await?;
    let effects = async || flow.system.look().counts().await.map_or(0, |had| had.effects);
    wait_until("half of it", patience, async || effects().await >= u64::from(messages / 2)).await?;
    let dies = flow.system.effects().await?.calls;
    flow.system.kill9(Which::Downstream);
    flow.start(&[Which::Downstream]).await?;
    let wanted = u64::from(messages);
    let done = async || flow.system.look().counts().await.is_ok_and(|had| had.orders >= wanted && had.in_flight == 0);
    wait_until("all of it", patience, done).await?;
    let took = began.elapsed();
    flow.all_signed(&ids).await?;

    let delays = took.as_millis() / u128::from(CHECK_DELAY_MS);
    let probes = flow.system.look().metric(Which::Callback, "countersign_probes_total", "outcome=\"signed\"").await?;
    println!("{messages} messages in {} s, {delays} check delays; {probes} probes were signed", seconds(took));
    println!("the consumer died after {dies} calls");
    ensure!(delays >= u128::from(messages) / 200, "there was no backlog");
    let resent = resends(&flow).await?;
    ensure!(resent == 0.0, "{resent} resends of what was only slow");
    let (known, ids): (Vec<_>, BTreeSet<_>) = (flow.deliveries().await?, ids.into_iter().collect());
    let number = |delivery: &countersign_wire::proto::Delivery| delivery.attempt.as_ref().map_or(0, |attempt| attempt.number);
    ensure!(known.len() == ids.len() && known.iter().all(|delivery| number(delivery) == 1), "something was tried twice");
    // Only what was being handled when the consumer died may have been handled again.
    let counts = flow.system.look().counts().await?;
    let again = counts.calls - wanted;
    println!("{again} calls more than messages");
    ensure!(again <= u64::from(CONCURRENCY), "{again} were delivered twice to the handler");
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_a_minute_of_backlog_is_not_sent_again() -> anyhow::Result<()> {
    backlog("storm_backlog", 6_000, 3 * PATIENCE).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_ten_minutes_of_backlog_are_not_sent_again() -> anyhow::Result<()> {
    if !is_long() {
        return Ok(());
    }
    backlog("storm_backlog_long", 60_000, 30 * PATIENCE).await
}
