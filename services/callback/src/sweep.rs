//! A net under callback's own feet: rows that are not settled and have been silent for too long get a new check.
//!
//! Their check may have been lost together with their message. The check goes to the queue of due checks first and is confirmed; only
//! then the row's time is moved on. A crash in between, or a second replica at the same rows, costs one check more.

use countersign_delivery::check::Check;
use countersign_delivery::ports::deliveries::{Change, DeliveryKey};
use countersign_delivery::state::{Delivery, Event};
use countersign_telemetry::names;

use crate::desk::Desk;
use crate::error::Error;
use crate::rearm::{self, NewCheck};

/// Rows that are taken at once.
pub const SWEEP_MAX: u32 = 500;

/// Gives one round of overdue rows a new check each; how many. As many as [`SWEEP_MAX`]: there may be more.
///
/// # Errors
/// [`Error`] of MSG DB or the broker; what was not confirmed stays overdue.
pub async fn sweep(desk: &Desk) -> Result<usize, Error> {
    let overdue = desk.deliveries.overdue(SWEEP_MAX).await?;
    if overdue.is_empty() {
        return Ok(0);
    }
    let queue = desk.topology.checks_queue();
    let new = overdue.iter().map(|(key, row)| NewCheck {
        queue: queue.clone(),
        upstream: row.facts.upstream.clone(),
        check: check_of(key, row),
    });
    let armed = rearm::publish(desk, new.collect()).await;
    let confirmed = overdue.iter().zip(&armed.confirmed).filter(|(_, confirmed)| **confirmed);
    let changes: Vec<Change<'_>> = confirmed.map(|((key, _), _)| Change { key: key.clone(), event: Event::Swept }).collect();
    if !changes.is_empty() {
        desk.deliveries.apply(&changes).await?;
    }
    let swept = changes.len();
    metrics::counter!(names::SWEPT_TOTAL).increment(u64::try_from(swept).unwrap_or(u64::MAX));
    tracing::info!(rows = swept, "overdue deliveries are checked anew");
    armed.why.map_or(Ok(swept), Err)
}

/// A check that judges the row as it stands, for its own subscription only.
fn check_of(key: &DeliveryKey, row: &Delivery) -> Check {
    Check {
        message_id: key.message_id,
        fingerprint: row.facts.fingerprint.clone(),
        attempt: row.attempt_to_check(),
        waits: 0,
        sent_at: row.facts.sent_at,
        required: vec![key.subscription.clone()],
        marks: Vec::new(),
        trace: None,
    }
}
