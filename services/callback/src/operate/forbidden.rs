//! Acts of callers who lack the role for them. Nothing of them is read, and each is a row of the audit, as every refused act is.
//!
//! What can fail: MSG DB (the log has the refusal). Rows that are being written are bounded, so that no caller can fill memory.

use std::sync::Arc;

use countersign_boot::{Forbidden, OnForbidden, Tasks};
use countersign_delivery::ports::audit::{Act, ActResult, NewAct};
use countersign_telemetry::{names, with_sources};
use tokio::sync::Semaphore;

use super::row::Row;
use crate::desk::Desk;

/// Rows that are being written at a time.
const ROWS_MAX: usize = 16;

/// Writes the row of every act that is forbidden.
#[must_use]
pub fn audited(desk: Desk, tasks: Tasks) -> OnForbidden {
    let room = Arc::new(Semaphore::new(ROWS_MAX));
    Arc::new(move |forbidden: Forbidden| {
        let Some(act) = act_of(&forbidden.path) else { return };
        metrics::counter!(names::OPERATOR_ACTS_TOTAL, "act" => act.as_str(), "result" => ActResult::Refused.as_str())
            .increment(1);
        let Ok(place) = room.clone().try_acquire_owned() else {
            tracing::warn!(caller = ?forbidden.caller, path = forbidden.path, "a forbidden act is missing from the audit: too many at a time");
            return;
        };
        let desk = desk.clone();
        let written = tasks.spawn("the row of a forbidden act", async move {
            let _place = place;
            write(&desk, act, &forbidden).await;
        });
        // Nobody waits for it: the caller has its answer.
        drop(written);
    })
}

async fn write(desk: &Desk, act: Act, forbidden: &Forbidden) {
    let row = NewAct {
        by: forbidden.caller.name().to_owned(),
        act,
        target: String::new(),
        subscription: String::new(),
        reason: String::new(),
    };
    match Row::begin(desk, &row).await {
        Ok(row) => row.end(desk, ActResult::Refused, &format!("it needs the role {}", forbidden.needed.as_str())).await,
        Err(error) => {
            let error = with_sources(&error);
            tracing::warn!(caller = ?forbidden.caller, path = forbidden.path, error, "a forbidden act is missing from the audit");
        }
    }
}

/// The act of a method of ours; none for what only reads.
fn act_of(path: &str) -> Option<Act> {
    match path.rsplit('/').next()? {
        "RedriveDelivery" => Some(Act::Redrive),
        "ParkDelivery" => Some(Act::Park),
        "DiscardDelivery" => Some(Act::Discard),
        "RestoreDelivery" => Some(Act::Restore),
        "RedriveDeadLetters" => Some(Act::RedriveDeadLetters),
        "DiscardDeadLetters" => Some(Act::DiscardDeadLetters),
        _ => None,
    }
}
