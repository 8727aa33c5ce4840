//! Group commit: messages of many callers in one INSERT, by tasks that no caller can cancel.
//!
//! Nothing lingers here: while one batch is being committed the next one gathers by itself.

pub(crate) mod doubt;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use countersign_boot::{Failpoint, failpoint};
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::messages::{Inserted, Insertion, Numbered};
use countersign_delivery::{Message, MessageId};
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};

use crate::desk::Desk;
use crate::ledger::{Ledger, Ticket};
use crate::publish;
use crate::refusal::Refusal;
use countersign_telemetry::with_sources;

/// How often a row is tried again under a new seq and id (fenced, or rolled back) before its caller is told to.
const MAX_TRIES: u32 = 5;

/// What became of one row.
#[derive(Debug)]
pub(crate) enum Stored {
    /// Committed under this id, and on its way to the broker.
    Committed(MessageId),
    /// The idempotency key was known: the first one's id, and whether that one is settled.
    Repeat(MessageId, bool),
    /// It was not stored.
    Refused(Refusal),
}

/// One message that waits for its commit.
#[derive(Debug)]
pub(crate) struct Row {
    pub message: Message,
    pub ticket: Ticket,
    pub slip: Slip,
}

/// What a row has to do with its caller.
#[derive(Debug)]
pub(crate) struct Slip {
    /// Told what became of it. The caller may be gone; the row is committed all the same.
    pub answer: oneshot::Sender<Stored>,
    /// How often it was tried under another seq.
    pub tries: u32,
    /// The room its body takes while it waits.
    pub _queued: OwnedSemaphorePermit,
}

impl Slip {
    fn answer(self, stored: Stored) {
        // A caller who is gone does not need the answer.
        let _ = self.answer.send(stored);
    }
}

/// Rows that wait for their commit; bounded by the room that each of them holds.
#[derive(Debug, Default)]
pub(crate) struct CommitQueue {
    rows: Mutex<VecDeque<Row>>,
    wake: Notify,
}

impl CommitQueue {
    /// Adds rows at the end.
    pub(crate) fn push(&self, rows: impl IntoIterator<Item = Row>) {
        self.lock().extend(rows);
        self.wake.notify_one();
    }

    /// Waits for rows, then takes what is there: at most `rows`, and bodies of `bytes` altogether (but always one).
    async fn next(&self, rows: usize, bytes: usize) -> Vec<Row> {
        loop {
            let woken = self.wake.notified();
            let (taken, more) = self.take(rows, bytes);
            if more {
                self.wake.notify_one();
            }
            if !taken.is_empty() {
                return taken;
            }
            woken.await;
        }
    }

    fn take(&self, rows: usize, bytes: usize) -> (Vec<Row>, bool) {
        let mut queue = self.lock();
        let mut size = 0;
        let fits = |row: &&Row| {
            size += row.message.body.len();
            size <= bytes
        };
        let count = queue.iter().take(rows).take_while(fits).count().max(1).min(queue.len());
        let taken = queue.drain(..count).collect();
        (taken, !queue.is_empty())
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Row>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Commits until everything is finished.
pub(crate) async fn run(desk: Arc<Desk>) {
    /// Bodies in one INSERT.
    const MAX_BYTES: usize = 8 * 1024 * 1024;
    loop {
        let next = desk.commits.next(desk.config.commit_batch, MAX_BYTES);
        let Some(rows) = desk.finished.run_until_cancelled(next).await else { return };
        commit(&desk, rows).await;
    }
}

/// Commits one batch and hands what is stored to the broker.
async fn commit(desk: &Arc<Desk>, rows: Vec<Row>) {
    let ledger = match desk.incarnations.accepting().await {
        Ok(ledger) => ledger,
        Err(error) => return refuse_all(rows.into_iter().map(|row| row.slip), &error),
    };
    let (mut messages, mut tickets, mut slips) = (Vec::new(), Vec::new(), Vec::new());
    for Row { message, ticket, slip } in rows {
        messages.push(message);
        tickets.push(ticket);
        slips.push(slip);
    }
    let numbers = match ledger.assign(tickets) {
        Ok(numbers) => numbers,
        // It has just stopped accepting: the next round finds or opens another one.
        Err(tickets) => {
            let rows = messages.into_iter().zip(tickets).zip(slips);
            desk.commits.push(rows.map(|((message, ticket), slip)| Row { message, ticket, slip }));
            return;
        }
    };
    let numbered = |((seq, id), message)| Numbered { seq, message: Message { id, ..message } };
    let batch: Vec<Numbered> = numbers.into_iter().zip(messages).map(numbered).collect();
    let inserted = desk.messages.insert(ledger.incarnation(), &desk.sources.as_stored(&batch)).await;
    match inserted {
        Err(error) if batch.len() > 1 && !matches!(error, PortError::OutcomeUnknown(..)) => {
            one_by_one(desk, &ledger, batch, slips).await;
        }
        inserted => conclude(desk, &ledger, batch, slips, inserted).await,
    }
}

/// A batch that failed as a whole, row by row, so that one bad row harms nobody else.
async fn one_by_one(desk: &Arc<Desk>, ledger: &Arc<Ledger>, batch: Vec<Numbered>, slips: Vec<Slip>) {
    /// So many rows in a row without an answer, and the database is away for the others too.
    const GIVE_UP_AFTER: u32 = 2;
    let mut unavailable = 0;
    for (row, slip) in batch.into_iter().zip(slips) {
        if unavailable >= GIVE_UP_AFTER {
            drop(ledger.roll_back(row.seq));
            slip.answer(Stored::Refused(Refusal::Unavailable("the database does not answer".into())));
            continue;
        }
        let stored = desk.sources.as_stored(std::slice::from_ref(&row));
        let inserted = desk.messages.insert(ledger.incarnation(), &stored).await;
        unavailable = if matches!(inserted, Err(PortError::Unavailable(..))) { unavailable + 1 } else { 0 };
        conclude(desk, ledger, vec![row], vec![slip], inserted).await;
    }
}

/// Acts on the answer to one INSERT.
async fn conclude(
    desk: &Arc<Desk>,
    ledger: &Arc<Ledger>,
    batch: Vec<Numbered>,
    slips: Vec<Slip>,
    inserted: Result<Insertion, PortError>,
) {
    match inserted {
        Ok(Insertion::Committed(fates)) => committed(desk, ledger, batch, slips, fates).await,
        Ok(Insertion::Fenced) => {
            desk.incarnations.lost(ledger);
            retry(desk, ledger, batch.into_iter().zip(slips));
        }
        Err(PortError::OutcomeUnknown(..)) => doubt::resolve_each(desk, ledger, batch, slips),
        Err(error) => {
            for row in &batch {
                drop(ledger.roll_back(row.seq));
            }
            refuse_all(slips, &error);
        }
    }
}

async fn committed(desk: &Arc<Desk>, ledger: &Arc<Ledger>, batch: Vec<Numbered>, slips: Vec<Slip>, fates: Vec<Inserted>) {
    let (mut stored, mut others) = (Vec::new(), Vec::new());
    for ((row, slip), fate) in batch.into_iter().zip(slips).zip(fates) {
        match fate {
            Inserted::Stored => {
                slip.answer(Stored::Committed(row.message.id));
                stored.push(row);
            }
            fate => others.push((row, slip, fate)),
        }
    }
    if !stored.is_empty() {
        failpoint(Failpoint::UpstreamAfterStore);
        publish::first(desk, ledger, stored);
    }
    for (row, slip, fate) in others {
        drop(ledger.roll_back(row.seq));
        slip.answer(known(desk, &row, fate).await);
    }
}

/// The answer to a row whose key was known before.
async fn known(desk: &Desk, row: &Numbered, fate: Inserted) -> Stored {
    match fate {
        Inserted::Stored => Stored::Committed(row.message.id),
        Inserted::Repeat { id, position } => Stored::Repeat(id, crate::lookup::is_settled(desk, id, position).await),
        Inserted::Conflict { id } => {
            let key = row.message.idempotency_key.as_ref().map_or_else(String::new, |key| key.as_str().to_owned());
            Stored::Refused(Refusal::Conflict { key, id })
        }
    }
}

/// Rows that are known not to exist, again under a new seq; a few times at most.
fn retry(desk: &Desk, ledger: &Ledger, rows: impl Iterator<Item = (Numbered, Slip)>) {
    for (row, mut slip) in rows {
        let ticket = ledger.roll_back(row.seq);
        slip.tries += 1;
        if slip.tries > MAX_TRIES {
            slip.answer(Stored::Refused(Refusal::Unavailable("the database rolled it back".into())));
        } else {
            desk.commits.push([Row { message: row.message, ticket, slip }]);
        }
    }
}

fn refuse_all(slips: impl IntoIterator<Item = Slip>, error: &PortError) {
    let words = with_sources(error);
    tracing::warn!(error = %words, "nothing was stored");
    for slip in slips {
        let refusal = if error.is_transient() { Refusal::Unavailable(words.clone()) } else { Refusal::Broken(words.clone()) };
        slip.answer(Stored::Refused(refusal));
    }
}
