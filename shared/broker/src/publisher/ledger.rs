//! What is in flight on one channel, and when its outcome is certain.
//!
//! lapin attaches the oldest returned message to *whichever* confirm completes next, so a confirm says nothing about its own message
//! until all returns that came before it have been seen. What is known for sure:
//!
//! 1. The broker sends a message's return before its confirm, on one channel.
//! 2. lapin queues returns, and each completing confirm takes the oldest one, if there is one.
//!
//! Hence a confirm that carries nothing proves that the queue was empty at that moment: every return that came before it, its own message's
//! included, has been taken by a confirm that completed earlier. A confirm that carries another message's return proves nothing; its message is
//! *held* until its own return turns up, or a publication started after that carries nothing, or nothing is in flight any more (each return
//! is followed by its own confirm, so the queue is empty then).
//!
//! **Invariant:** [`Ledger::settle`] is given every confirm that completed before the last one it is given.

use std::collections::{HashMap, VecDeque};

use countersign_delivery::ports::broker::Published;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::kind::Kind;

/// What a return is matched by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) message_id: String,
    pub(super) exchange: String,
    pub(super) route: String,
}

/// One completed confirm.
#[derive(Debug)]
pub(super) struct Landed {
    pub(super) slot: usize,
    pub(super) positive: bool,
    /// The return that lapin attached: whose, and the broker's words.
    pub(super) carried: Option<(Key, String)>,
}

/// Where an answer belongs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) batch: u64,
    pub(super) index: usize,
}

#[derive(Debug)]
struct Flight {
    key: Key,
    place: Place,
    kind: Kind,
    seq: u64,
    started: Instant,
    expires: Instant,
    positive: Option<bool>,
    returned: Option<String>,
}

#[derive(Debug)]
struct Batch {
    answers: Vec<Option<Published>>,
    missing: usize,
    reply: oneshot::Sender<Vec<Published>>,
}

/// A message whose confirm came with somebody else's return.
#[derive(Clone, Copy, Debug)]
struct Held {
    slot: usize,
    /// Publications from this number on were started after the confirm had been seen.
    since: u64,
}

/// What has an outcome now: for the metrics.
#[derive(Debug, PartialEq)]
pub(super) struct Settled {
    pub(super) kind: Kind,
    pub(super) started: Instant,
    pub(super) answer: Published,
}

/// The account of one channel's publications.
#[derive(Debug)]
pub(super) struct Ledger {
    flights: Vec<Option<Flight>>,
    free: Vec<usize>,
    by_key: HashMap<Key, usize>,
    order: VecDeque<(usize, u64)>,
    held: Vec<Held>,
    batches: HashMap<u64, Batch>,
    next_batch: u64,
    next_seq: u64,
    unanswered: usize,
}

impl Ledger {
    pub(super) fn new(window: usize) -> Self {
        Self {
            flights: (0..window).map(|_| None).collect(),
            free: (0..window).rev().collect(),
            by_key: HashMap::with_capacity(window),
            order: VecDeque::with_capacity(window),
            held: Vec::new(),
            batches: HashMap::new(),
            next_batch: 0,
            next_seq: 0,
            unanswered: 0,
        }
    }

    /// Opens an account for `size` publications of one call.
    pub(super) fn open(&mut self, size: usize, reply: oneshot::Sender<Vec<Published>>) -> u64 {
        let batch = self.next_batch;
        self.next_batch += 1;
        self.batches.insert(batch, Batch { answers: vec![None; size], missing: size, reply });
        batch
    }

    /// Whether a publication with this key may start: there is room, and none like it is in flight, whose return would look the same.
    pub(super) fn has_room_for(&self, key: &Key) -> bool {
        !self.free.is_empty() && !self.by_key.contains_key(key)
    }

    /// Whether nothing is in flight.
    pub(super) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Notes a start; the answer is the slot. `None` without room.
    pub(super) fn start(&mut self, key: Key, place: Place, kind: Kind, started: Instant, expires: Instant) -> Option<usize> {
        let slot = self.free.pop()?;
        let seq = self.next_seq;
        self.next_seq += 1;
        self.by_key.insert(key.clone(), slot);
        self.order.push_back((slot, seq));
        self.unanswered += 1;
        self.flights[slot] = Some(Flight { key, place, kind, seq, started, expires, positive: None, returned: None });
        Some(slot)
    }

    /// Answers one publication that never started.
    pub(super) fn answer(&mut self, place: Place, answer: Published) {
        let Some(batch) = self.batches.get_mut(&place.batch) else { return };
        let Some(cell) = batch.answers.get_mut(place.index) else { return };
        if cell.replace(answer).is_none() {
            batch.missing -= 1;
        }
        if batch.missing == 0
            && let Some(batch) = self.batches.remove(&place.batch)
        {
            // A caller that went away needs no answer.
            let _ = batch.reply.send(batch.answers.into_iter().map(|answer| answer.unwrap_or(Published::Unknown)).collect());
        }
    }

    /// Takes in a round of completed confirms and settles what is certain.
    pub(super) fn settle(&mut self, round: Vec<Landed>) -> Vec<Settled> {
        let mut empty_at = None;
        for landed in &round {
            match &landed.carried {
                None => empty_at = empty_at.max(self.flights[landed.slot].as_ref().map(|flight| flight.seq)),
                Some((key, words)) => {
                    if let Some(flight) = self.by_key.get(key).and_then(|slot| self.flights[*slot].as_mut()) {
                        flight.returned = Some(words.clone());
                    }
                }
            }
        }
        let since = self.next_seq;
        let mut certain = Vec::with_capacity(round.len());
        for landed in round {
            let Some(flight) = self.flights[landed.slot].as_mut() else { continue };
            if flight.positive.replace(landed.positive).is_none() {
                self.unanswered -= 1;
            }
            if landed.carried.is_none() {
                certain.push(landed.slot);
            } else {
                self.held.push(Held { slot: landed.slot, since });
            }
        }
        let (quiet, flights) = (self.unanswered == 0, &self.flights);
        self.held.retain(|held| {
            let returned = flights[held.slot].as_ref().is_some_and(|flight| flight.returned.is_some());
            let free = quiet || returned || empty_at.is_some_and(|seq| seq >= held.since);
            if free {
                certain.push(held.slot);
            }
            !free
        });
        certain.into_iter().filter_map(|slot| self.finish(slot)).collect()
    }

    /// The channel is gone: everything on it is unknown.
    pub(super) fn abandon(&mut self) -> Vec<Settled> {
        self.held.clear();
        let slots: Vec<usize> = self.by_key.values().copied().collect();
        for slot in &slots {
            if let Some(flight) = self.flights[*slot].as_mut() {
                flight.positive = None;
                flight.returned = None;
            }
        }
        self.unanswered = 0;
        slots.into_iter().filter_map(|slot| self.finish(slot)).collect()
    }

    /// When the oldest publication in flight runs out of time.
    pub(super) fn oldest_expires(&mut self) -> Option<Instant> {
        while let Some((slot, seq)) = self.order.front() {
            match &self.flights[*slot] {
                Some(flight) if flight.seq == *seq => return Some(flight.expires),
                _ => self.order.pop_front(),
            };
        }
        None
    }

    fn finish(&mut self, slot: usize) -> Option<Settled> {
        let flight = self.flights[slot].take()?;
        self.free.push(slot);
        self.by_key.remove(&flight.key);
        let answer = match (flight.returned, flight.positive) {
            (Some(reason), _) => Published::Returned { reason },
            (None, Some(true)) => Published::Confirmed,
            (None, Some(false)) => Published::Nacked,
            (None, None) => Published::Unknown,
        };
        self.answer(flight.place, answer.clone());
        Some(Settled { kind: flight.kind, started: flight.started, answer })
    }
}

#[cfg(test)]
mod tests;
