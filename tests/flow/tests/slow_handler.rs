//! A handler that takes far longer than callback waits before it looks, probes and overdue included: what is held is reported, and nothing
//! is sent again.

use anyhow::ensure;
use countersign_flow::{CHECK_DELAY_MS, Flow, Setup};
use countersign_launcher::{Extras, Which};
use serde_json::json;

/// Behind the slow one, prefetched and waiting.
const BEHIND: u32 = 50;
/// After the look come the grace of a probe (3/2 of the delay), its replacement (2) and what counts as overdue (6); twice all that.
const SLOW_MS: u64 = 20 * CHECK_DELAY_MS;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_for_long_is_not_sent_again_and_neither_is_what_waits_behind_it() -> anyhow::Result<()> {
    let downstream = format!("concurrency = 1\nprefetch = {}", BEHIND + 10);
    let extras = Extras { downstream, ..Extras::default() };
    let mut flow = Flow::with_extras("slow_handler", Setup { postgres: false, max_batch: 256 }, extras).await?;
    flow.start(&Which::ALL).await?;
    flow.system.behave(&json!({ "delay_ms": SLOW_MS, "for": 1 })).await?;
    let ids = flow.send(0, BEHIND + 1).await?;
    // They all stand as held, the one that is handled and those that wait: that is what the reports are for.
    flow.all_in_state(&ids, "processing").await?;
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    ensure!(flow.system.effects().await?.calls == u64::from(BEHIND + 1), "one was handled twice");
    let resends = flow.system.metric(Which::Callback, "countersign_resend_orders_total").await?;
    ensure!(resends == 0.0, "{resends} resends of what was only slow");
    for id in &ids {
        ensure!(flow.history(id, "resending").await? == 0, "{id} was taken for lost");
    }
    flow.finish().await
}
