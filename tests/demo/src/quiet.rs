//! When does nothing move any more? Without callback the end cannot be known from its book, so it is seen from all the others.

use std::time::Duration;

use countersign_launcher::{Counts, SUBSCRIPTION, Which};
use tokio::time::Instant;

use crate::stage::Stage;

/// How often everything is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Check delays without any movement that count as the end. Leases, retries and pauses before a further publish are all shorter.
const CHECK_DELAYS: u32 = 4;

/// Waits until queues are empty, nothing is in the shop's hands, upstream has nothing unconfirmed, and the shop's book stands still for
/// some check delays; says how long that was.
///
/// # Errors
/// When somebody who is asked does not answer.
pub async fn nothing_moves(stage: &Stage, check_delay: Duration) -> anyhow::Result<Duration> {
    let mut book = Counts::default();
    let mut still_since = Instant::now();
    loop {
        let now = stage.system.look().counts().await?;
        if now != book || !nothing_waits(stage, &now).await? {
            (book, still_since) = (now, Instant::now());
        }
        let still = still_since.elapsed();
        if still >= check_delay * CHECK_DELAYS {
            return Ok(still);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn nothing_waits(stage: &Stage, shop: &Counts) -> anyhow::Result<bool> {
    let unconfirmed = stage.system.metric(Which::Upstream, "countersign_unconfirmed_messages").await?;
    let tiers = stage.system.retry_delays_ms().map(|delay| format!("{SUBSCRIPTION}.retry.{delay}"));
    let mut waiting = stage.broker.queue_depth(&stage.vhost, SUBSCRIPTION).await?;
    for tier in &tiers {
        waiting += stage.broker.queue_depth(&stage.vhost, tier).await?;
    }
    Ok(shop.in_flight == 0 && waiting == 0 && unconfirmed < 1.0)
}
