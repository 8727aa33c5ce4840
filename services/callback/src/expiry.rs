//! How old is too old: nothing is sent again that downstream may have forgotten to have done.
//!
//! The time counts from when the message was sent; where an operator allowed a second effect it counts from that redrive, since the consumers'
//! record of it is under a key of its own from then on.

use countersign_delivery::Timestamp;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::deliveries::{DeliveryKey, HistoryLine};
use countersign_delivery::state::Delivery;

use crate::desk::Desk;

/// Whether downstream may have forgotten by now what it did about a message first sent at `since`.
pub(crate) fn is_expired(desk: &Desk, now: Timestamp, since: Timestamp) -> bool {
    now.millis_since(since) >= desk.figures.dedup_retention_ms
}

/// Whether a delivery is too old. Asks for its history only if the answer depends on it.
///
/// # Errors
/// [`PortError`] of MSG DB.
pub(crate) async fn is_too_old(desk: &Desk, now: Timestamp, key: &DeliveryKey, row: &Delivery) -> Result<bool, PortError> {
    if !is_expired(desk, now, row.facts.sent_at) {
        return Ok(false);
    }
    if row.effect_epoch == 0 {
        return Ok(true);
    }
    let history = desk.deliveries.history(key).await?;
    // Without the line nobody can tell, and the operator has accepted the risk.
    Ok(risked_at(&history, row.effect_epoch).is_some_and(|at| is_expired(desk, now, at)))
}

/// When the redrive that opened this epoch was ordered: the first line of the epoch.
fn risked_at(history: &[HistoryLine], effect_epoch: u32) -> Option<Timestamp> {
    history.iter().find(|line| line.what == "resending" && line.attempt.epoch == effect_epoch).map(|line| line.at)
}
