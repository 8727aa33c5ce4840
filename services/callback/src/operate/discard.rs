//! Discard: a named operator wants nothing more done about a delivery, and says why. It can be restored; a late receipt still resolves it.

use countersign_delivery::state::Event;

use super::rows::{apply_to_each, rows};
use super::{ActOutcome, Checked, Refusal};
use crate::desk::Desk;

/// Discards what is named, or every delivery of the message that is not done.
pub(super) async fn discard(desk: &Desk, act: &Checked) -> Result<Vec<ActOutcome>, Refusal> {
    let rows = rows(desk, act).await?;
    apply_to_each(desk, act, rows, &Event::Discard { note: act.note() }, "discarded").await
}
