//! What is not settled yet of one incarnation: who waits for it, and when it is to be published again.
//!
//! **Invariant (I7):** a seq is assigned and registered under one lock, and leaves the ledger only when message and check are
//! confirmed ([`Ledger::settle`]), its own status tracks it ([`Ledger::hand_over`]), or the row is known not to exist
//! ([`Ledger::roll_back`]). Bodies are never kept here.
//!
//! **Invariant:** memory grows with what is being stored and published at the moment, which has bounds of its own; what waits for the
//! broker takes a few bytes a message ([`deferred`]).

mod deferred;
mod numbering;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use countersign_delivery::ports::Clock;
use countersign_delivery::seqs::Seqs;
use countersign_delivery::topology::Mode;
use countersign_delivery::{IncarnationId, MessageId, Position, Seq, Timestamp};
use countersign_telemetry::invariants;
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use crate::counters;
use crate::ledger::deferred::{Deferred, Waiting};
use crate::ledger::numbering::Numbering;

/// What an accepted message holds until it is settled.
#[derive(Debug, Default)]
pub(crate) struct Ticket {
    /// Told when message and check are confirmed.
    pub settled: Option<oneshot::Sender<()>>,
    /// Its place among `max_unconfirmed`.
    pub place: Option<OwnedSemaphorePermit>,
}

/// What is to be published again, from the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Again {
    /// What of it.
    pub what: What,
    /// How large its body is, which has to be read for it.
    pub bytes: usize,
}

/// What of a message is to be published again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The message, and a new check.
    Message,
    /// Only a check: the message is confirmed.
    Check,
}

/// One thing that is due to be published again.
#[derive(Debug)]
pub(crate) struct Due {
    /// Which place.
    pub seq: Seq,
    /// What.
    pub again: Again,
}

/// The unsettled messages of one incarnation, ours or inherited.
#[derive(Debug)]
pub(crate) struct Ledger {
    incarnation: IncarnationId,
    state: Mutex<State>,
    /// Tells the catching-up task that there is something for it.
    wake: Arc<Notify>,
    /// Tells whoever waits that nothing is unsettled.
    drained: Notify,
    beats: AtomicU64,
    /// How many adoptions are claimed in this incarnation's name: until they end it must not close.
    pub(crate) adoptions: AtomicUsize,
}

#[derive(Debug)]
struct State {
    order: Order,
    /// Whether new seqs are given out.
    accepting: bool,
    /// Somebody else has taken over: what cannot be published at once is theirs.
    adopted: bool,
    /// What is being stored or published.
    entries: BTreeMap<Seq, Entry>,
    /// What waits to be published again.
    deferred: Deferred,
    /// The highest watermark that was given out.
    highest: Seq,
}

#[derive(Debug)]
enum Order {
    /// We give out the seqs.
    Own(Numbering),
    /// Somebody else gave them out; these have been taken on.
    Inherited(Seqs),
}

#[derive(Debug)]
struct Entry {
    since: Instant,
    tries: u32,
    ticket: Ticket,
}

impl Ledger {
    /// For an incarnation of this process, which mints nothing before `floor`. Bodies of `page_bytes` are published again at a time.
    pub(crate) fn own(
        incarnation: IncarnationId,
        floor: Timestamp,
        clock: Arc<dyn Clock>,
        wake: Arc<Notify>,
        page_bytes: usize,
    ) -> Arc<Self> {
        let numbering = Numbering::new(incarnation, floor, clock);
        Self::new(incarnation, Order::Own(numbering), true, wake, page_bytes)
    }

    /// For an incarnation that this process adopts.
    pub(crate) fn inherited(incarnation: IncarnationId, wake: Arc<Notify>, page_bytes: usize) -> Arc<Self> {
        Self::new(incarnation, Order::Inherited(Seqs::default()), false, wake, page_bytes)
    }

    fn new(incarnation: IncarnationId, order: Order, accepting: bool, wake: Arc<Notify>, page_bytes: usize) -> Arc<Self> {
        let (entries, deferred) = (BTreeMap::new(), Deferred::new(page_bytes));
        let state = State { order, accepting, adopted: false, entries, deferred, highest: Seq::FIRST };
        Arc::new(Self {
            incarnation,
            state: Mutex::new(state),
            wake,
            drained: Notify::new(),
            beats: AtomicU64::new(0),
            adoptions: AtomicUsize::new(0),
        })
    }

    /// Whose ledger this is.
    pub(crate) const fn incarnation(&self) -> IncarnationId {
        self.incarnation
    }

    /// A place in this incarnation.
    pub(crate) const fn position(&self, seq: Seq) -> Position {
        Position { incarnation: self.incarnation, seq }
    }

    /// Assigns seqs and ids to rows that are about to be inserted; the tickets come back when no more are given out.
    pub(crate) fn assign(&self, tickets: Vec<Ticket>) -> Result<Vec<(Seq, MessageId)>, Vec<Ticket>> {
        let (since, mut state) = (Instant::now(), self.lock());
        let State { order, accepting: true, entries, .. } = &mut *state else { return Err(tickets) };
        let Order::Own(numbering) = order else { return Err(tickets) };
        let register = |ticket| {
            let (seq, id) = numbering.assign();
            entries.insert(seq, Entry { since, tries: 0, ticket });
            (seq, id)
        };
        Ok(tickets.into_iter().map(register).collect())
    }

    /// Takes on a row of the incarnation we adopt. False: it was taken on before.
    pub(crate) fn take_on(&self, seq: Seq) -> bool {
        let mut state = self.lock();
        let State { order: Order::Inherited(known), entries, .. } = &mut *state else { return false };
        let entry = Entry { since: Instant::now(), tries: 0, ticket: Ticket::default() };
        known.insert(seq) && entries.insert(seq, entry).is_none()
    }

    /// Message and check are confirmed.
    pub(crate) fn settle(&self, seq: Seq) {
        let Some(ticket) = self.remove(seq) else { return };
        counters::settled(Mode::Verified);
        if let Some(settled) = ticket.settled {
            // Nobody waits any more: the caller has its answer already.
            let _ = settled.send(());
        }
    }

    /// The row does not exist and never will under this seq. Gives its ticket back.
    pub(crate) fn roll_back(&self, seq: Seq) -> Ticket {
        self.remove(seq).unwrap_or_default()
    }

    /// The row is committed, and from now on its own status tracks it (mode `outbox`). Gives its ticket back.
    pub(crate) fn hand_over(&self, seq: Seq) -> Ticket {
        self.remove(seq).unwrap_or_default()
    }

    fn remove(&self, seq: Seq) -> Option<Ticket> {
        let mut state = self.lock();
        if let Order::Own(numbering) = &mut state.order {
            numbering.tracker.settle(seq);
        }
        let ticket = match state.entries.remove(&seq) {
            Some(entry) => entry.ticket,
            None => state.deferred.remove(seq)?,
        };
        if state.is_empty() {
            self.drained.notify_waiters();
        }
        Some(ticket)
    }

    /// It could not be published, or not for certain: again at `at`, counting a try if it was tried.
    pub(crate) fn defer(&self, seq: Seq, again: Again, tried: bool, at: impl FnOnce(u32) -> Instant) {
        let mut state = self.lock();
        if state.adopted {
            drop(state);
            self.remove(seq);
            return;
        }
        let Some(mut entry) = state.entries.remove(&seq) else { return };
        entry.tries = entry.tries.saturating_add(u32::from(tried));
        let at = at(entry.tries);
        state.deferred.put(Waiting { seq, again, entry }, at);
        drop(state);
        self.wake.notify_one();
    }

    /// Takes out what is due, oldest first: about a page of it, within `page_bytes` of bodies (but always one message).
    pub(crate) fn take_due(&self, now: Instant) -> Vec<Due> {
        let mut state = self.lock();
        let State { entries, deferred, .. } = &mut *state;
        let publish = |Waiting { seq, again, entry }| {
            entries.insert(seq, entry);
            Due { seq, again }
        };
        deferred.take_due(now).into_iter().map(publish).collect()
    }

    /// When something is due next.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.lock().deferred.next_due()
    }

    /// What the heartbeat may write: the smallest unsettled seq, or the next one, and until when everything that was minted is settled.
    /// Neither ever goes back.
    pub(crate) fn settled(&self) -> (Seq, Timestamp) {
        let mut state = self.lock();
        let Order::Own(numbering) = &mut state.order else { return (Seq::FIRST, Timestamp::default()) };
        let (watermark, until) = (numbering.tracker.watermark(), numbering.settled_until());
        if watermark < state.highest {
            invariants::violated("I7", &format!("the watermark passed seq {} while it was unsettled", watermark.0));
        }
        state.highest = state.highest.max(watermark);
        (watermark, until)
    }

    /// How far the watermark lags behind.
    pub(crate) fn lag(&self) -> u64 {
        match &self.lock().order {
            Order::Own(numbering) => numbering.tracker.lag(),
            Order::Inherited(_) => 0,
        }
    }

    /// Whether this seq still waits to be settled.
    pub(crate) fn is_unsettled(&self, seq: Seq) -> bool {
        let state = self.lock();
        state.entries.contains_key(&seq) || state.deferred.contains(seq)
    }

    /// How many wait to be settled, and since when the oldest does.
    pub(crate) fn backlog(&self) -> (usize, Option<Instant>) {
        let state = self.lock();
        let publishing = state.entries.first_key_value().map(|(_, entry)| entry.since);
        (state.count(), publishing.into_iter().chain(state.deferred.since()).min())
    }

    /// Whether new seqs are given out.
    pub(crate) fn is_accepting(&self) -> bool {
        self.lock().accepting
    }

    /// Gives out no more seqs.
    pub(crate) fn stop_accepting(&self) {
        self.lock().accepting = false;
    }

    /// Somebody else has taken over: nothing new, and what waits to be published is theirs to publish.
    pub(crate) fn give_up(&self) {
        let mut state = self.lock();
        (state.accepting, state.adopted) = (false, true);
        state.deferred.clear();
        if state.is_empty() {
            self.drained.notify_waiters();
        }
    }

    /// Whether no more are given out and none is unsettled.
    pub(crate) fn is_drained(&self) -> bool {
        let state = self.lock();
        !state.accepting && state.is_empty()
    }

    /// Waits until nothing is unsettled.
    pub(crate) async fn drained(&self) {
        loop {
            let drained = self.drained.notified();
            tokio::pin!(drained);
            drained.as_mut().enable();
            if self.backlog().0 == 0 {
                return;
            }
            drained.await;
        }
    }

    /// The counter of the next heartbeat.
    pub(crate) fn next_beat(&self) -> u64 {
        self.beats.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// How many are unsettled and ours.
    fn count(&self) -> usize {
        self.entries.len() + self.deferred.len()
    }

    fn is_empty(&self) -> bool {
        self.count() == 0
    }
}

#[cfg(test)]
mod tests;
