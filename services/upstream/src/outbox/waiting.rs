//! Rows of mode `outbox` that this process has stored and whose status is not written yet: who waits for them, and which are in doubt.
//!
//! Bounded by `max_unconfirmed`, whose places the rows hold until the broker has confirmed them, or until memory gives up: the row has
//! failed, or somebody else has brought it to its end. No body is kept here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use countersign_delivery::ports::outbox::Named;
use countersign_delivery::{Position, Timestamp};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::ledger::Ticket;

/// How far two readings of a clock may be apart, milliseconds; far less than the time after which another sweeper takes a row.
const SLACK_MS: u64 = 1_000;

/// The rows.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    state: Mutex<State>,
    /// Tells the sweeper that a row is in doubt.
    pub(crate) wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    rows: BTreeMap<Position, Row>,
    due: BTreeSet<(Instant, Position)>,
}

#[derive(Debug)]
struct Row {
    ticket: Ticket,
    /// When this process had it last, by its own clock: it stored or claimed it, or wrote a refusal.
    had_at: Timestamp,
    /// How often its publisher had no answer.
    tries: u32,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Publishing,
    /// To be claimed by name at this time, unless somebody else has it by then.
    Doubt(Instant),
    /// Confirmed; the status is being written.
    Confirmed,
}

impl Waiting {
    /// A row that is being published.
    pub(crate) fn add(&self, position: Position, ticket: Ticket, now: Timestamp) {
        let row = Row { ticket, had_at: now, tries: 0, stage: Stage::Publishing };
        self.lock().rows.insert(position, row);
    }

    /// The broker has it: its caller is told, and its place is free.
    pub(crate) fn confirmed(&self, position: Position) {
        let mut state = self.lock();
        state.stage(position, Stage::Confirmed);
        let ticket = state.rows.get_mut(&position).map(|row| std::mem::take(&mut row.ticket));
        drop(state);
        if let Some(settled) = ticket.and_then(|ticket| ticket.settled) {
            // Nobody waits any more: the caller has its answer already.
            let _ = settled.send(());
        }
    }

    /// The row needs no memory any more: its status is written, or somebody else looks after it.
    pub(crate) fn forget(&self, position: Position) {
        let mut state = self.lock();
        state.stage(position, Stage::Publishing);
        state.rows.remove(&position);
    }

    /// It is not known what became of it: claimed by name at `at`, counting a try if it was published.
    pub(crate) fn doubt(&self, position: Position, tried: bool, at: impl FnOnce(u32) -> Instant) {
        let mut state = self.lock();
        let Some(row) = state.rows.get_mut(&position).filter(|row| row.stage != Stage::Confirmed) else { return };
        row.tries = row.tries.saturating_add(u32::from(tried));
        let at = at(row.tries);
        state.stage(position, Stage::Doubt(at));
        drop(state);
        self.wake.notify_one();
    }

    /// This process has just written of it that the broker refused it.
    pub(crate) fn refused(&self, position: Position, look_again: Instant, now: Timestamp) {
        if let Some(row) = self.lock().rows.get_mut(&position) {
            row.had_at = now;
        }
        self.doubt(position, false, |_| look_again);
    }

    /// It was claimed and is being published again.
    pub(crate) fn hold(&self, position: Position, now: Timestamp) {
        let mut state = self.lock();
        if let Some(row) = state.rows.get_mut(&position) {
            row.had_at = now;
        }
        if state.rows.get(&position).is_some_and(|row| row.stage != Stage::Confirmed) {
            state.stage(position, Stage::Publishing);
        }
    }

    /// Takes out what is in doubt and due, oldest first.
    pub(crate) fn take_due(&self, now: Instant, rows: usize, clock: Timestamp) -> Vec<Named> {
        let mut state = self.lock();
        let due: Vec<_> = state.due.iter().take_while(|(at, _)| *at <= now).take(rows).map(|(_, position)| *position).collect();
        let mut taken = Vec::with_capacity(due.len());
        for position in due {
            state.stage(position, Stage::Publishing);
            let since_ms = |row: &Row| clock.millis_since(row.had_at).saturating_sub(SLACK_MS);
            taken.extend(state.rows.get(&position).map(|row| Named { position, since_ms: since_ms(row) }));
        }
        taken
    }

    /// When something in doubt is due next.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.lock().due.first().map(|(at, _)| *at)
    }

    /// Whether the broker has confirmed it and only its status is to be written.
    pub(crate) fn is_confirmed(&self, position: Position) -> bool {
        self.lock().rows.get(&position).is_some_and(|row| row.stage == Stage::Confirmed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn stage(&mut self, position: Position, stage: Stage) {
        let Some(row) = self.rows.get_mut(&position) else { return };
        if let Stage::Doubt(at) = std::mem::replace(&mut row.stage, stage) {
            self.due.remove(&(at, position));
        }
        if let Stage::Doubt(at) = stage {
            self.due.insert((at, position));
        }
    }
}
