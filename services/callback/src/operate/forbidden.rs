//! Acts of callers who lack the role for them. Nothing of them is read, and each is a row of the audit, as every refused act is; of a caller in
//! a loop some are, and the next row says how many are not ([`countersign_delivery::refusals`]).
//!
//! What can fail: MSG DB (the log has the refusal). Rows that are being written are bounded, so that no caller can fill memory.

use std::sync::{Arc, PoisonError};

use countersign_boot::{Forbidden, OnForbidden, Role, Tasks};
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
        let Some(detail) = detail(&desk, forbidden.caller.name(), act, forbidden.needed) else { return };
        let Ok(place) = room.clone().try_acquire_owned() else {
            metrics::counter!(names::AUDIT_MISSING_TOTAL, "act" => act.as_str()).increment(1);
            tracing::warn!(caller = ?forbidden.caller, path = forbidden.path, "a forbidden act is missing from the audit: too many at a time");
            return;
        };
        let nothing = String::new;
        let by = forbidden.caller.name().to_owned();
        let row = NewAct { by, act, target: nothing(), subscription: nothing(), reason: nothing() };
        let desk = desk.clone();
        let written = tasks.spawn("the row of a forbidden act", async move {
            let _place = place;
            write(&desk, &row, &detail).await;
        });
        // Nobody waits for it: the caller has its answer.
        drop(written);
    })
}

/// Counts an act that is forbidden by what it asks for, and writes its row.
pub(crate) async fn refuse(desk: &Desk, row: &NewAct, needed: Role) {
    metrics::counter!(names::OPERATOR_ACTS_TOTAL, "act" => row.act.as_str(), "result" => ActResult::Refused.as_str())
        .increment(1);
    if let Some(detail) = detail(desk, &row.by, row.act, needed) {
        write(desk, row, &detail).await;
    }
}

/// What the row of one more refusal says; none when the caller has had enough rows.
fn detail(desk: &Desk, by: &str, act: Act, needed: Role) -> Option<String> {
    let mut refusals = desk.refusals.lock().unwrap_or_else(PoisonError::into_inner);
    refusals.rule(by, act, desk.clock.now()).detail(needed.as_str())
}

async fn write(desk: &Desk, act: &NewAct, detail: &str) {
    match Row::begin(desk, act).await {
        Ok(row) => row.end(desk, ActResult::Refused, detail).await,
        Err(error) => {
            let (error, by, act) = (with_sources(&error), act.by.as_str(), act.act.as_str());
            metrics::counter!(names::AUDIT_MISSING_TOTAL, "act" => act).increment(1);
            tracing::warn!(by, act, error, "a forbidden act is missing from the audit");
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
