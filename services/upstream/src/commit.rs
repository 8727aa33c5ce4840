//! Group commit: messages of many callers in one INSERT, by tasks that no caller can cancel.
//!
//! Nobody lingers alone: a batch gathers only while another one is being committed. Under load that makes one large batch of two small ones;
//! only a full batch, or one that has gathered for [`GATHER`], is committed beside others, so that a commit that hangs does not hold up the rest.

pub(crate) mod doubt;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_boot::{Failpoint, failpoint};
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::messages::{Inserted, Insertion, Numbered};
use countersign_delivery::{Message, MessageId};
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::desk::Desk;
use crate::ledger::{Ledger, Ticket};
use crate::publish;
use crate::refusal::Refusal;
use countersign_telemetry::with_sources;

/// Longest time a batch gathers while others are being committed.
const GATHER: Duration = Duration::from_millis(10);
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
    state: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    rows: VecDeque<Row>,
    /// When the first of them came, or was left over.
    since: Option<Instant>,
    /// Batches that are being committed.
    under_way: usize,
}

/// A batch, or when there will be one.
enum Taken {
    Batch(Vec<Row>),
    /// It may gather until then.
    Gathering(Instant),
    Nothing,
}

impl CommitQueue {
    /// Adds rows at the end.
    pub(crate) fn push(&self, rows: impl IntoIterator<Item = Row>) {
        let mut waiting = self.lock();
        waiting.rows.extend(rows);
        waiting.since = waiting.since.or_else(|| (!waiting.rows.is_empty()).then(Instant::now));
        drop(waiting);
        self.wake.notify_one();
    }

    /// Waits for a batch: at most `rows`, and bodies of `bytes` altogether (but always one). It is under way until [`Self::ended`].
    async fn next(&self, rows: usize, bytes: usize) -> Vec<Row> {
        loop {
            let woken = self.wake.notified();
            match self.take(rows, bytes) {
                Taken::Batch(batch) => return batch,
                // Woken or not: whoever is awake looks again.
                Taken::Gathering(until) => drop(timeout_at(until, woken).await),
                Taken::Nothing => woken.await,
            }
        }
    }

    fn take(&self, rows: usize, bytes: usize) -> Taken {
        let mut waiting = self.lock();
        let Some(since) = waiting.since else { return Taken::Nothing };
        let mut size = 0;
        let fits = |row: &&Row| {
            size += row.message.body.len();
            size <= bytes
        };
        let count = waiting.rows.iter().take(rows).take_while(fits).count().max(1).min(waiting.rows.len());
        let is_full = count == rows || count < waiting.rows.len();
        if waiting.under_way > 0 && !is_full && since.elapsed() < GATHER {
            return Taken::Gathering(since + GATHER);
        }
        waiting.under_way += 1;
        let batch = waiting.rows.drain(..count).collect();
        waiting.since = (!waiting.rows.is_empty()).then(Instant::now);
        if waiting.since.is_some() {
            self.wake.notify_one();
        }
        Taken::Batch(batch)
    }

    /// A batch is no longer under way.
    fn ended(&self) {
        self.lock().under_way -= 1;
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        desk.commits.ended();
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
    let numbered = |((seq, id), message): (_, Message)| Numbered { seq, message: message.under(id) };
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use countersign_testkit::build::a_message;
    use tokio::sync::Semaphore;

    use super::*;

    const ALL: usize = 1_000_000;

    fn rows(count: usize) -> Vec<Row> {
        let room = Arc::new(Semaphore::new(count));
        let row = || Row {
            message: a_message(),
            ticket: Ticket { settled: None, place: None },
            slip: Slip { answer: oneshot::channel().0, tries: 0, _queued: room.clone().try_acquire_owned().unwrap() },
        };
        std::iter::repeat_with(row).take(count).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_gathers_only_while_another_is_under_way() {
        let (queue, begun) = (CommitQueue::default(), Instant::now());
        queue.push(rows(1));
        assert_eq!(queue.next(9, ALL).await.len(), 1);
        queue.push(rows(2));
        let second = async {
            let batch = queue.next(9, ALL).await;
            (batch.len(), begun.elapsed())
        };
        let ending = async {
            tokio::time::sleep(GATHER / 2).await;
            queue.push(rows(3));
            queue.ended();
        };
        let ((count, waited), ()) = futures::join!(second, ending);
        assert_eq!((count, waited), (5, GATHER / 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_that_hangs_holds_nobody_up_for_long() {
        let (queue, begun) = (CommitQueue::default(), Instant::now());
        queue.push(rows(1));
        assert_eq!(queue.next(9, ALL).await.len(), 1);
        queue.push(rows(9));
        assert_eq!((queue.next(9, ALL).await.len(), begun.elapsed()), (9, Duration::ZERO), "a full one waits for nobody");
        queue.push(rows(2));
        let third = queue.next(9, ALL).await.len();
        assert_eq!(third, 2);
        assert!(begun.elapsed() >= GATHER && begun.elapsed() < GATHER * 2, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_bound_a_batch_and_what_is_left_over_goes_at_once() {
        let (queue, begun) = (CommitQueue::default(), Instant::now());
        let bytes = rows(1)[0].message.body.len();
        queue.push(rows(5));
        assert_eq!(queue.next(9, bytes * 2).await.len(), 2);
        assert_eq!(queue.next(9, bytes * 2).await.len(), 2);
        queue.ended();
        queue.ended();
        assert_eq!((queue.next(9, bytes * 2).await.len(), begun.elapsed()), (1, Duration::ZERO));
    }
}
