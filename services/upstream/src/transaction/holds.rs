//! What a transaction's sends hold until it ends.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use countersign_delivery::Seq;
use countersign_delivery::ports::messages::Numbered;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tracing::Span;

use crate::ledger::Ledger;

/// One message that waits for its transaction's commit. Its place is in the ledger's ticket.
#[derive(Debug)]
pub(super) struct Held {
    pub ledger: Arc<Ledger>,
    pub row: Numbered,
    /// Told when message and check are confirmed.
    pub settled: oneshot::Receiver<()>,
    pub span: Span,
    /// The room its body takes while it waits.
    pub _queued: OwnedSemaphorePermit,
}

/// All of a transaction. Dropped before [`Holds::take`] they leave their ledgers: COMMIT was never sent.
#[derive(Debug, Default)]
pub(super) struct Holds(Mutex<Vec<Held>>);

impl Holds {
    /// Adds one, before its INSERT begins: a dropped future must not leave its seq behind.
    pub(super) fn add(&self, held: Held) {
        self.lock().push(held);
    }

    /// One whose row was not written.
    pub(super) fn give_back(&self, ledger: &Arc<Ledger>, seq: Seq) {
        self.lock().retain(|held| held.row.seq != seq || !Arc::ptr_eq(&held.ledger, ledger));
        drop(ledger.roll_back(seq));
    }

    /// Takes them out: from now on only their rows tell whether they are committed.
    pub(super) fn take(&self) -> Vec<Held> {
        std::mem::take(&mut *self.lock())
    }

    /// The ids, in the order in which they were sent.
    pub(super) fn ids(&self) -> Vec<countersign_delivery::MessageId> {
        self.lock().iter().map(|held| held.row.message.id).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Holds {
    fn drop(&mut self) {
        for held in self.take() {
            drop(held.ledger.roll_back(held.row.seq));
        }
    }
}
