//! Forgets what is done and older than `inbox_retention_ms`, in small batches with pauses, never on the way of a message.
//!
//! What may be forgotten is the port's rule ([`Archive::forget`]). Every replica runs
//! this; they need not know of each other.
//!
//! **Invariant:** nothing is forgotten that would not be refused as stale: both go by `inbox_retention_ms`. Of a further effect, which an
//! operator allowed and no age makes stale, it is remembered as long after it happened.

use std::sync::Arc;
use std::time::Duration;

use countersign_boot::Context;
use countersign_delivery::SubscriptionName;
use countersign_delivery::ports::Clock;
use countersign_delivery::ports::archive::Archive;
use countersign_telemetry::{names, with_sources};
use tokio::time::sleep;

/// Most rows of one batch.
const BATCH_ROWS: u32 = 1_000;
/// Pause between two batches: up to about 20,000 rows a second and replica.
const BATCH_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause before it is looked again for what has become old.
const LOOK_PAUSE: Duration = Duration::from_mins(1);
/// Shortest such pause, where the retention is short.
const SHORTEST_LOOK_PAUSE: Duration = Duration::from_millis(100);
/// What part of a short retention such a pause is.
const LOOKS_PER_RETENTION: u64 = 10;

/// Forgets what is old of these subscriptions until soft stop. With a retention of 0 nothing is ever forgotten.
pub fn start(context: &Context, archive: impl Archive + 'static, subscriptions: Vec<SubscriptionName>, retention_ms: u64) {
    if retention_ms == 0 || subscriptions.is_empty() {
        return;
    }
    let forgetting = keep_forgetting(archive, context.clock.clone(), subscriptions, retention_ms);
    drop(context.tasks.spawn("forget", context.stop.soft_token().run_until_cancelled_owned(forgetting)));
}

async fn keep_forgetting(archive: impl Archive, clock: Arc<dyn Clock>, subscriptions: Vec<SubscriptionName>, retention_ms: u64) {
    let between_looks = Duration::from_millis(retention_ms / LOOKS_PER_RETENTION).clamp(SHORTEST_LOOK_PAUSE, LOOK_PAUSE);
    loop {
        for subscription in &subscriptions {
            while forget(&archive, &*clock, subscription, retention_ms).await > 0 {
                sleep(BATCH_PAUSE).await;
            }
        }
        sleep(between_looks).await;
    }
}

/// One batch; how many are forgotten.
async fn forget(archive: &impl Archive, clock: &dyn Clock, subscription: &SubscriptionName, retention_ms: u64) -> u64 {
    match archive.forget(subscription, retention_ms, clock.now(), BATCH_ROWS).await {
        Ok(forgotten) => {
            metrics::counter!(names::INBOX_FORGOTTEN_TOTAL, "subscription" => subscription.to_string()).increment(forgotten);
            forgotten
        }
        Err(error) => {
            tracing::warn!(%subscription, error = with_sources(&error), "what is old cannot be forgotten now");
            0
        }
    }
}

#[cfg(test)]
mod tests;
