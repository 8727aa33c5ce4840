//! Restore: takes a discard back. The delivery is parked again, for the reason that it had.

use countersign_delivery::state::{Command, Event};

use super::rows::{apply_to_each, rows};
use super::{ActOutcome, Checked, Refusal};
use crate::desk::Desk;

/// Restores what is named, or every delivery of the message that is discarded.
pub(super) async fn restore(desk: &Desk, act: &Checked) -> Result<Vec<ActOutcome>, Refusal> {
    let mut rows = rows(desk, act).await?;
    let is_discarded = |command: &Command| matches!(command, Command::Discarded { .. });
    if rows.iter().any(|(_, row)| is_discarded(&row.command)) {
        rows.retain(|(_, row)| is_discarded(&row.command));
    }
    apply_to_each(desk, act, rows, &Event::Restore { note: act.note() }, "restored").await
}
