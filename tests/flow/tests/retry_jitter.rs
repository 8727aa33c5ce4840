//! What fails comes again through its tier within `[delay × (1 − jitter), delay]`, on the real broker.

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, Ledger, Setup};
use countersign_launcher::{Extras, Which};
use serde_json::json;

/// Orders that fail once, one after the other: each is alone in its tier.
const ORDERS: u32 = 24;
/// The largest share there may be, so that a busy machine cannot hide it.
const JITTER: f64 = 0.9;
/// A message that is due is handled so soon, milliseconds, on a busy machine.
const SOON_MS: i64 = 3_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_comes_again_within_the_share_of_its_tier() -> anyhow::Result<()> {
    let extras = Extras { downstream: format!("retry_jitter = {JITTER}"), ..Extras::default() };
    let mut flow = Flow::with_extras("retry_jitter", Setup { postgres: false, max_batch: 256 }, extras).await?;
    flow.start(&Which::ALL).await?;
    let [tier_ms, _] = flow.system.retry_delays_ms();
    let tier_ms = i64::try_from(tier_ms)?;
    let mut ids = Vec::new();
    for number in 0..ORDERS {
        flow.system.behave(&json!({ "status": 503, "for": 1 })).await?;
        ids.extend(flow.send(number, 1).await?);
        flow.all_signed(&ids).await?;
    }
    flow.each_effected_once(&ids).await?;
    let calls = Ledger::open(&flow.ground.path("orders.db")).await?.calls().await?;
    let mut waits = Vec::new();
    for id in &ids {
        let times = calls.get(id).with_context(|| format!("{id} was never called"))?;
        ensure!(times.len() == 2, "{id} was called at {times:?}");
        waits.push(times[1] - times[0]);
    }
    waits.sort_unstable();
    println!("a tier of {tier_ms} ms with a jitter of {JITTER}: it came again after {waits:?} ms");
    let (first, last) = (waits[0], waits[waits.len() - 1]);
    // The times are cut to whole milliseconds.
    ensure!(first * 10 >= tier_ms - 20 && last <= tier_ms + SOON_MS, "{waits:?}");
    // Half of them have an expiration in the lower half: at least one has to show it, however busy the machine is.
    ensure!(first < tier_ms, "none came earlier than the tier's own delay: {waits:?}");
    flow.finish().await
}
