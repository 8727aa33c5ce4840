//! A commit whose answer was lost: each row is entombed, which tells whether it is there.
//!
//! Until then its seq stays unsettled, so the watermark cannot pass it; a process that dies meanwhile leaves it to adoption.

use std::sync::Arc;
use std::time::Duration;

use countersign_delivery::Seq;
use countersign_delivery::ports::messages::{Entombed, Numbered};

use crate::commit::{Slip, Stored, retry};
use crate::counters;
use crate::desk::Desk;
use crate::incarnations::note;
use crate::ledger::Ledger;
use crate::publish;
use crate::refusal::Refusal;
use crate::retention::may_be_deleted;

/// How long to wait before the database is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// Resolves every row of a batch, in a task of its own: other commits go on.
pub(super) fn resolve_each(desk: &Arc<Desk>, ledger: &Arc<Ledger>, batch: Vec<Numbered>, slips: Vec<Slip>) {
    tracing::warn!(incarnation = %ledger.incarnation(), rows = batch.len(), "the answer to a commit was lost: asking for each row");
    let (desk, ledger) = (desk.clone(), ledger.clone());
    desk.tasks.clone().spawn("resolve a commit", async move {
        for (row, slip) in batch.into_iter().zip(slips) {
            let Some(entombed) = entomb(&desk, &ledger, row.seq).await else { return };
            match entombed {
                Entombed::Committed(_) => {
                    slip.answer(Stored::Committed(row.message.id));
                    counters::stored([row.message.mode]);
                    publish::again(&desk, &ledger, vec![(row.seq, row.message)]);
                }
                // It may have been committed, adopted, published and deleted while this process was asleep: then a second one is no repeat.
                Entombed::RolledBack if outlived(&desk, &row) => {
                    drop(ledger.roll_back(row.seq));
                    let words = "whether it was stored is not known any more: its retention has passed";
                    slip.answer(Stored::Refused(Refusal::Unavailable(words.into())));
                }
                Entombed::RolledBack => retry(&desk, &ledger, std::iter::once((row, slip))),
            }
        }
    });
}

/// Whether a row that is not there may have been deleted as expired.
pub(crate) fn outlived(desk: &Desk, row: &Numbered) -> bool {
    may_be_deleted(desk.config.retention_ms, desk.clock.now(), row.message.sent_at)
}

/// Asks until there is an answer; none when the process ends first.
pub(crate) async fn entomb(desk: &Desk, ledger: &Ledger, seq: Seq) -> Option<Entombed> {
    loop {
        match desk.finished.run_until_cancelled(desk.messages.entomb(ledger.position(seq))).await? {
            Ok(entombed) => return Some(entombed),
            Err(error) => note("a lost commit is not resolved yet", &error),
        }
        desk.finished.run_until_cancelled(tokio::time::sleep(PAUSE)).await?;
    }
}
