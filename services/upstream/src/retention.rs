//! Deletes messages that are settled and older than `retention_ms`, in small batches with pauses, never on the way of a send.
//!
//! What may be deleted is the port's rule ([`Messages::delete_expired`](countersign_delivery::ports::messages::Messages::delete_expired)).
//! Every replica runs this; they need not know of each other.
//!
//! **Invariant:** nothing that callback may still order to be sent again is deleted: start-up refuses a shorter retention ([`problem`]).

use std::sync::Arc;
use std::time::Duration;

use countersign_delivery::horizon::longest_resend_horizon_ms;
use countersign_delivery::policy::Policy;
use countersign_delivery::ports::messages::Expiry;
use countersign_delivery::{Timestamp, Topology};
use countersign_telemetry::names;
use tokio::time::sleep;

use crate::config::UpstreamSection;
use crate::desk::Desk;
use crate::incarnations::note;

/// Most rows of one transaction. Their bodies are at most so many times `max_body_bytes`, which a database frees within a second.
const BATCH_ROWS: u32 = 256;
/// Pause between two batches: up to about 5,000 rows a second and replica.
const BATCH_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause before it is looked again for what has become old.
const LOOK_PAUSE: Duration = Duration::from_mins(1);
/// Shortest such pause, where the retention is short.
const SHORTEST_LOOK_PAUSE: Duration = Duration::from_millis(100);
/// What part of a short retention such a pause is.
const LOOKS_PER_RETENTION: u64 = 10;

/// Deletes until the soft stop. With a retention of 0 it ends at once: everything is kept.
pub(crate) async fn run(desk: Arc<Desk>) {
    let retention_ms = desk.config.retention_ms;
    if retention_ms > 0 {
        let stop = desk.stop.soft_token();
        stop.run_until_cancelled(keep_deleting(&desk, retention_ms)).await;
    }
}

async fn keep_deleting(desk: &Desk, retention_ms: u64) {
    let between_looks = Duration::from_millis(retention_ms / LOOKS_PER_RETENTION).clamp(SHORTEST_LOOK_PAUSE, LOOK_PAUSE);
    loop {
        let expiry = Expiry { now: desk.clock.now(), retention_ms };
        let pause = match desk.messages.delete_expired(&desk.config.name, expiry, BATCH_ROWS).await {
            Ok(0) => between_looks,
            Ok(deleted) => {
                metrics::counter!(names::RETENTION_DELETED_TOTAL).increment(deleted);
                tracing::debug!(deleted, "deleted expired messages");
                BATCH_PAUSE
            }
            Err(error) => {
                note("expired messages cannot be deleted now", &error);
                between_looks
            }
        };
        sleep(pause).await;
    }
}

/// Whether a message accepted at `sent_at` may have been stored and deleted again by now.
pub(crate) fn may_be_deleted(retention_ms: u64, now: Timestamp, sent_at: Timestamp) -> bool {
    retention_ms > 0 && now.millis_since(sent_at) > retention_ms
}

/// What is wrong with the retention, with its remedy.
pub(crate) fn problem(section: &UpstreamSection, topology: &Topology, policy: &Policy) -> Option<String> {
    let kept = section.retention_ms;
    let horizon = longest_resend_horizon_ms(topology, policy, section.handler_timeout_ms, section.handler_lease_ms);
    (kept > 0 && kept < horizon).then(|| {
        format!(
            "upstream.retention_ms is {kept}, but a message can be sent again after {horizon} ms, and would be gone by then: raise it to \
             at least that, or set it to 0 to keep everything"
        )
    })
}

#[cfg(test)]
mod tests;
