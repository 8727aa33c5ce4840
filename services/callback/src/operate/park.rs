//! Park: leaves a delivery for a human. Nothing is sent again until somebody redrives it; a late receipt still resolves it.

use countersign_delivery::state::{Event, ParkReason};

use super::rows::{apply_to_each, rows};
use super::{ActOutcome, Checked, Refusal};
use crate::command_resend::tell_parked;
use crate::desk::Desk;

const PARKED: &str = "parked";

/// Parks what is named, or every delivery of the message that is not done.
pub(super) async fn park(desk: &Desk, act: &Checked) -> Result<Vec<ActOutcome>, Refusal> {
    let rows = rows(desk, act).await?;
    let outcomes = apply_to_each(desk, act, rows, &Event::ParkByOperator { note: act.note() }, PARKED).await?;
    outcomes.iter().filter(|one| one.result == PARKED).for_each(|_| tell_parked(&ParkReason::Operator));
    Ok(outcomes)
}
