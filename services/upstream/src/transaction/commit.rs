//! The end of a caller's transaction: COMMIT, what it stored, and its way to the broker.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use countersign_boot::{Failpoint, failpoint};
use countersign_delivery::MessageId;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::messages::{Entombed, Numbered};
use countersign_telemetry::{names, with_sources};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::commit::doubt::{entomb, outlived};
use crate::counters;
use crate::desk::Desk;
use crate::incarnations::note;
use crate::ledger::Ledger;
use crate::publish;
use crate::refusal::Refusal;
use crate::send::{Accepted, Outcome, Unconfirmed};
use crate::transaction::holds::Held;
use crate::transaction::{Transaction, TransactionError, refused};

/// A transaction that is committed; its messages are on their way to the broker.
#[derive(Debug)]
pub struct Committed<T> {
    /// What the work returned.
    pub value: T,
    messages: Vec<Unconfirmed>,
    confirm_wait: Duration,
}

impl<T> Committed<T> {
    /// The messages that it stored, in the order in which they were sent. Those of a savepoint that was rolled back are not among them,
    /// neither are repeats.
    pub fn messages(&self) -> impl Iterator<Item = &Accepted> {
        self.messages.iter().map(|message| &message.accepted)
    }

    /// Waits a moment for the broker (`confirm_wait_ms`), as a send does; one outcome for each of [`Self::messages`].
    pub async fn confirmed(self) -> (T, Vec<Outcome>) {
        let by = Instant::now() + self.confirm_wait;
        let mut outcomes = Vec::with_capacity(self.messages.len());
        for message in self.messages {
            outcomes.push(message.confirmed(by).await);
        }
        (self.value, outcomes)
    }
}

/// What became of a COMMIT.
enum Verdict {
    Committed(Vec<Unconfirmed>),
    RolledBack(Refusal),
    Unknown(String),
}

/// Commits, unless the transaction is poisoned or has failed.
pub(super) async fn commit<T, E>(transaction: Transaction, value: T) -> Result<Committed<T>, TransactionError<E>> {
    let present = match transaction.poison() {
        Some(poison) => Err(poison),
        None => transaction.enlisted.present(&transaction.holds.ids()).await.map_err(|error| refused(&error)),
    };
    let present = match present {
        Ok(present) => present,
        Err(refusal) => {
            transaction.roll_back().await;
            return Err(TransactionError::RolledBack(refusal));
        }
    };
    failpoint(Failpoint::TransactionBeforeCommit);
    let desk = transaction.desk.clone();
    let (answer, verdict) = oneshot::channel();
    desk.tasks.spawn("commit a transaction", async move {
        // The caller may be gone; what was committed is published all the same.
        let _ = answer.send(carry_out(transaction, present).await);
    });
    let wait = desk.config.commit_wait_ms;
    match timeout(Duration::from_millis(wait), verdict).await {
        Ok(Ok(Verdict::Committed(messages))) => {
            Ok(Committed { value, messages, confirm_wait: Duration::from_millis(desk.config.confirm_wait_ms) })
        }
        Ok(Ok(Verdict::RolledBack(refusal))) => Err(TransactionError::RolledBack(refusal)),
        Ok(Ok(Verdict::Unknown(words))) => Err(TransactionError::Unknown(words)),
        Ok(Err(_)) => Err(TransactionError::Unknown("this upstream is stopping".into())),
        Err(_) => Err(TransactionError::Unknown(format!("the database has not answered within {wait} ms (commit_wait_ms)"))),
    }
}

/// Sends COMMIT and finds out what it stored, however long that takes. `present`: the messages that were there when it was sent.
async fn carry_out(transaction: Transaction, present: HashSet<MessageId>) -> Verdict {
    let Transaction { desk, holds, enlisted, _turn, .. } = transaction;
    let held = holds.take();
    let error = match enlisted.commit().await {
        Ok(()) => match read_back(&desk, &held).await {
            Ok(stored) if present.is_subset(&stored) => return Verdict::Committed(stored_only(&desk, held, &stored)),
            Ok(_) => PortError::OutcomeUnknown("COMMIT", "its rows are not there: has a savepoint outlived the work?".into()),
            Err(error) => PortError::OutcomeUnknown("the look at what was committed", error.into()),
        },
        Err(error) => error,
    };
    note("what became of a transaction is asked for each of its messages", &error);
    match resolve(&desk, held, &present).await {
        (messages, Some(true)) => Verdict::Committed(messages),
        (_, Some(false)) => Verdict::RolledBack(refused(&error)),
        // An answer, and it was no.
        (_, None) if !matches!(error, PortError::OutcomeUnknown(..)) => Verdict::RolledBack(refused(&error)),
        (_, None) => Verdict::Unknown(with_sources(&error)),
    }
}

/// Which of the messages are in the table, now that the transaction is over.
async fn read_back(desk: &Desk, held: &[Held]) -> Result<HashSet<MessageId>, PortError> {
    let ids: Vec<MessageId> = held.iter().map(|held| held.row.message.id).collect();
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    Ok(desk.messages.get(&ids).await?.into_iter().map(|stored| stored.message.id).collect())
}

/// Publishes what was read back; the rest leaves its ledger.
fn stored_only(desk: &Arc<Desk>, held: Vec<Held>, stored: &HashSet<MessageId>) -> Vec<Unconfirmed> {
    if !stored.is_empty() {
        failpoint(Failpoint::UpstreamAfterStore);
    }
    let mut messages = Vec::with_capacity(stored.len());
    let mut groups: Vec<(Arc<Ledger>, Vec<Numbered>)> = Vec::new();
    for held in held {
        if !stored.contains(&held.row.message.id) {
            held.gone();
            continue;
        }
        let (ledger, row, unconfirmed) = held.on_its_way();
        messages.push(unconfirmed);
        match groups.last_mut().filter(|(last, _)| Arc::ptr_eq(last, &ledger)) {
            Some((_, rows)) => rows.push(row),
            None => groups.push((ledger, vec![row])),
        }
    }
    for (ledger, rows) in groups {
        publish::first(desk, &ledger, rows);
    }
    messages
}

/// Asks for each row by a tombstone. Whether the transaction was committed is told by those that were there when COMMIT was sent; none,
/// and nothing tells. What is not answered before the process ends stays in its ledger, and is left to adoption.
async fn resolve(desk: &Arc<Desk>, held: Vec<Held>, present: &HashSet<MessageId>) -> (Vec<Unconfirmed>, Option<bool>) {
    let (mut messages, mut committed) = (Vec::new(), None);
    for held in held {
        let was_there = present.contains(&held.row.message.id);
        let Some(entombed) = entomb(desk, &held.ledger, held.row.seq).await else { return (messages, committed) };
        let is_there = matches!(entombed, Entombed::Committed(_));
        // It may have been committed, adopted, published and deleted while this process was asleep.
        if was_there && (is_there || !outlived(desk, &held.row)) {
            committed = Some(is_there);
        }
        match entombed {
            Entombed::Committed(_) => {
                let (ledger, row, unconfirmed) = held.on_its_way();
                messages.push(unconfirmed);
                counters::stored([row.message.mode]);
                publish::again(desk, &ledger, vec![(row.seq, row.message)]);
            }
            Entombed::RolledBack => held.gone(),
        }
    }
    (messages, committed)
}

impl Held {
    /// Its row is not there, and will never be.
    fn gone(self) {
        drop(self.ledger.roll_back(self.row.seq));
        self.span.record(names::OUTCOME, "refused");
    }

    fn on_its_way(self) -> (Arc<Ledger>, Numbered, Unconfirmed) {
        let Self { ledger, row, settled, span, _queued } = self;
        let accepted = Accepted { id: row.message.id, fingerprint: row.message.fingerprint.clone(), duplicate: false };
        (ledger, row, Unconfirmed { accepted, settled, span })
    }
}
