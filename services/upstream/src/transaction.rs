//! A transaction that the caller owns: business rows and messages in one commit of upstream's own database.
//!
//! A send within it takes its place and its seq, and inserts its row by the same fenced statement as every other one; the id is known
//! at once. COMMIT runs in a task that no caller can cancel ([`commit`]). Only rows that are read back after it are published: a savepoint
//! may have been rolled back.
//!
//! What can fail, and what covers it: the work fails, panics, takes too long or is dropped (COMMIT was never sent, so its seqs leave
//! the ledger for good); the incarnation is fenced, or a row vanishes (the transaction is poisoned, its commit refuses); the answer to COMMIT
//! is lost (a tombstone for each seq finds out, [`crate::commit::doubt`]); the process dies (its successor adopts what was committed).
//!
//! **Invariant:** a seq leaves the ledger unpublished only if COMMIT was not sent, or its row is known not to be there.

mod commit;
mod error;
mod holds;

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use countersign_delivery::Message;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::messages::{Inserted, Insertion, Numbered};
use countersign_delivery::topology::Mode;
use countersign_store::{Database, DatabaseTransaction, Enlisted};
use countersign_telemetry::{names, with_sources};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};
use tracing::Span;

pub use crate::transaction::commit::Committed;
pub use crate::transaction::error::TransactionError;

use crate::accept::NewMessage;
use crate::desk::Desk;
use crate::fullness::known;
use crate::ledger::{Ledger, Ticket};
use crate::refusal::Refusal;
use crate::send::{Accepted, Outcome, judge, names_its_message, stopping, traced};
use crate::transaction::holds::{Held, Holds};

/// Where callers' transactions run, and how many at a time.
#[derive(Clone, Debug)]
pub(crate) struct Transactions {
    database: Database,
    turns: Arc<Semaphore>,
}

impl Transactions {
    /// At most `at_a_time` in this database.
    pub(crate) fn new(database: Database, at_a_time: usize) -> Self {
        Self { database, turns: Arc::new(Semaphore::new(at_a_time)) }
    }
}

/// An open transaction, lent to the caller's work.
pub struct Transaction {
    desk: Arc<Desk>,
    holds: Holds,
    /// Why it must not be committed.
    poison: Mutex<Option<Refusal>>,
    // Behind the holds: what is taken back in the ledger first was never committed.
    enlisted: Enlisted,
    _turn: OwnedSemaphorePermit,
}

/// Runs the work in a transaction of its own, and commits it if it says so.
pub(crate) async fn run<F, T, E>(
    desk: &Arc<Desk>,
    transactions: Option<&Transactions>,
    work: F,
) -> Result<Committed<T>, TransactionError<E>>
where
    F: for<'c> FnOnce(&'c Transaction) -> Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'c>> + Send,
{
    let millis = desk.config.transaction_limit_ms();
    let by = Instant::now() + Duration::from_millis(millis);
    let transaction = Transaction::begin(desk, transactions, by).await.map_err(TransactionError::RolledBack)?;
    match timeout_at(by, work(&transaction)).await {
        Ok(Ok(value)) => commit::commit(transaction, value).await,
        Ok(Err(error)) => {
            transaction.roll_back().await;
            Err(TransactionError::Work(error))
        }
        Err(_) => {
            transaction.roll_back().await;
            let words = format!("the transaction has not come to its end within {millis} ms (transaction_timeout_ms)");
            Err(TransactionError::RolledBack(Refusal::Unavailable(words)))
        }
    }
}

impl Transaction {
    async fn begin(desk: &Arc<Desk>, transactions: Option<&Transactions>, by: Instant) -> Result<Self, Refusal> {
        let Some(Transactions { database, turns }) = transactions else {
            return Err(Refusal::Broken("this upstream was started without a database of its own".into()));
        };
        let exhausted = |_| {
            let what = format!("{} transactions are open (max_transactions)", desk.config.max_transactions);
            Refusal::Exhausted { what, retry_ms: desk.config.retry_after_ms }
        };
        let turn = timeout_at(by, turns.clone().acquire_owned()).await.map_err(exhausted)?.map_err(|_| stopping())?;
        if desk.stop.is_soft() {
            return Err(stopping());
        }
        // Opened before BEGIN, which on SQLite takes the only connection that writes.
        desk.incarnations.accepting().await.map_err(|error| refused(&error))?;
        let idle_limit = Duration::from_millis(desk.config.transaction_limit_ms());
        let enlisted = database.enlist(idle_limit, desk.config.outbox_sweep_after_ms).await.map_err(|error| refused(&error))?;
        Ok(Self { desk: desk.clone(), holds: Holds::default(), poison: Mutex::default(), enlisted, _turn: turn })
    }

    /// For the business statements: sea-orm's `ConnectionTrait`, and its `TransactionTrait` for savepoints, which govern sends too.
    #[must_use]
    pub const fn connection(&self) -> &DatabaseTransaction {
        self.enlisted.connection()
    }

    /// Stores one message with the transaction; its id is known at once, and a promise with the commit. It is published after that.
    ///
    /// # Errors
    /// [`Refusal`], as [`crate::Upstream::send`] has it. After [`Refusal::Unavailable`] and [`Refusal::Broken`] the transaction is poisoned:
    /// it will not be committed. After the others it goes on as if nothing had been sent.
    pub async fn send(&self, message: NewMessage) -> Result<Accepted, Refusal> {
        if let Some(poison) = self.poison() {
            return Err(poison);
        }
        let message = judge(&self.desk, message)?;
        if message.mode == Mode::Confirmed {
            let words = "its route has mode confirmed, which stores nothing: send it after the commit, or give the route mode verified or outbox";
            return Err(Refusal::Invalid(words.into()));
        }
        if self.desk.fullness.refuses(&self.desk.topology, &message) {
            return full(&self.desk, message).await;
        }
        let place = self.desk.place()?;
        let queued = self.desk.queued.take(message.body.len()).ok_or_else(|| {
            let what = format!("too many bytes wait for the database (max_queued_bytes {})", self.desk.config.max_queued_bytes);
            Refusal::Exhausted { what, retry_ms: self.desk.config.retry_after_ms }
        })?;
        let (message, span) = traced(message);
        let (settled_sender, settled) = oneshot::channel();
        let ticket = Ticket { settled: Some(settled_sender), place: Some(place) };
        let ledger = self.desk.incarnations.current();
        let assigned = ledger.and_then(|ledger| ledger.assign(vec![ticket]).ok()?.pop().map(|(seq, id)| (ledger, seq, id)));
        let Some((ledger, seq, id)) = assigned else {
            return Err(self.poisoned(Refusal::Unavailable("this process has just lost its place to another one".into())));
        };
        names_its_message(&span, id);
        let row = Numbered { seq, message: message.under(id) };
        let held = Held { ledger: ledger.clone(), row: row.clone(), settled, span: span.clone(), _queued: queued };
        self.holds.add(held);
        let stored = self.desk.sources.as_stored(std::slice::from_ref(&row));
        let inserted = self.enlisted.insert(ledger.incarnation(), &stored).await;
        drop(stored);
        self.concluded(&ledger, row, &span, inserted)
    }

    /// Acts on the answer to one INSERT. Whatever was not written gives its place back.
    fn concluded(
        &self,
        ledger: &Arc<Ledger>,
        row: Numbered,
        span: &Span,
        inserted: Result<Insertion, PortError>,
    ) -> Result<Accepted, Refusal> {
        let fate = match inserted {
            Ok(Insertion::Committed(mut fates)) => fates.pop(),
            Ok(Insertion::Fenced) => {
                self.desk.incarnations.lost(ledger);
                None
            }
            Err(error) => {
                let refusal = self.poisoned(refused(&error));
                self.holds.give_back(ledger, row.seq);
                return Err(refusal);
            }
        };
        if fate != Some(Inserted::Stored) {
            self.holds.give_back(ledger, row.seq);
            span.record(names::OUTCOME, "refused");
        }
        let Message { id, fingerprint, idempotency_key, .. } = row.message;
        match fate {
            Some(Inserted::Stored) => Ok(Accepted { id, fingerprint, duplicate: false }),
            Some(Inserted::Repeat { id, .. }) => Ok(Accepted { id, fingerprint, duplicate: true }),
            Some(Inserted::Conflict { id }) => {
                Err(Refusal::Conflict { key: idempotency_key.map_or_else(String::new, |key| key.as_str().to_owned()), id })
            }
            None => Err(self.poisoned(Refusal::Unavailable("another process has taken this one for dead".into()))),
        }
    }

    /// Takes everything back. COMMIT was not sent, so whatever the answer: nothing was committed, and nothing will be.
    async fn roll_back(self) {
        if let Err(error) = self.enlisted.rollback().await {
            crate::incarnations::note("a transaction is rolled back by the end of its session", &error);
        }
    }

    fn poison(&self) -> Option<Refusal> {
        self.poison.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn poisoned(&self, refusal: Refusal) -> Refusal {
        *self.poison.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal.clone());
        refusal
    }
}

impl std::fmt::Debug for Transaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transaction").field("poison", &self.poison).finish_non_exhaustive()
    }
}

/// What a caller is told about an error of the database before COMMIT.
/// The answer to a message whose queues refuse.
async fn full(desk: &Desk, message: Message) -> Result<Accepted, Refusal> {
    let by = Instant::now() + Duration::from_millis(desk.config.commit_wait_ms);
    match known::answer(desk, message, by).await {
        Outcome::Confirmed(accepted) | Outcome::Committed(accepted) => Ok(accepted),
        Outcome::Refused(refusal) => Err(refusal),
    }
}

fn refused(error: &PortError) -> Refusal {
    let words = with_sources(error);
    if error.is_transient() { Refusal::Unavailable(words) } else { Refusal::Broken(words) }
}

#[cfg(test)]
mod tests;
