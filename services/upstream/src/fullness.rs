//! Which queues refused when they were last tried: the last known state behind `on_full = "reject"` of a route.
//!
//! It is learned from outcomes alone, by required set. A nack marks the set: one of its queues is full, or cannot take messages (an alarm,
//! no leader); a nack does not say which. A confirm clears it. What was committed before the first nack is kept and published again, and
//! that is what clears a mark in the end; where nothing is kept (another replica has it), a mark without news runs out after [`MARK`], and
//! one message may find out. Each replica learns by itself, so each lets a few messages in before it knows.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_delivery::ports::broker::Published;
use countersign_delivery::topology::OnFull;
use countersign_delivery::{Message, SubscriptionName, Topology};
use tokio::time::Instant;

pub(crate) mod known;

/// How long a mark holds without news; then one message is let through, and its outcome is the news.
pub(crate) const MARK: Duration = Duration::from_secs(2);
/// Most sets that are marked at a time. A set beyond is not refused: its messages are kept, as with `on_full = "keep"`.
const MOST: usize = 1_000;

/// The marks, shared by all senders.
#[derive(Debug, Default)]
pub(crate) struct Fullness(Mutex<Marks>);

impl Fullness {
    /// Takes in what became of publications that these subscriptions should get, in the order of their publishing.
    pub(crate) fn learn(&self, set: &[SubscriptionName], outcomes: &[Published]) {
        let Some(nacked) = newest(outcomes) else { return };
        let changed = self.lock().learn(set, nacked, Instant::now());
        if changed && nacked {
            tracing::warn!(
                subscriptions = names(set),
                "the broker refuses messages for them: routes with on_full = \"reject\" refuse now"
            );
        } else if changed {
            tracing::info!(subscriptions = names(set), "the broker takes messages for them again");
        }
    }

    /// Whether this message is to be refused now.
    pub(crate) fn refuses(&self, topology: &Topology, message: &Message) -> bool {
        let route = topology.route(&message.exchange, &message.routing_key);
        route.on_full == OnFull::Reject && self.lock().refuses(&message.required, Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, Marks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of each set that was refused. Pure.
#[derive(Debug, Default)]
struct Marks(BTreeMap<Vec<SubscriptionName>, Instant>);

impl Marks {
    /// Notes a nack (`nacked`) or a confirm of the set; true if this is new.
    ///
    /// A confirm clears every set within this one: all of their queues took the message.
    fn learn(&mut self, set: &[SubscriptionName], nacked: bool, now: Instant) -> bool {
        if !nacked {
            let before = self.0.len();
            self.0.retain(|marked, _| !is_within(marked, set));
            return self.0.len() < before;
        }
        if let Some(until) = self.0.get_mut(set) {
            *until = now + MARK;
            return false;
        }
        if self.0.len() >= MOST {
            self.0.retain(|_, until| *until > now);
        }
        self.0.len() < MOST && self.0.insert(set.to_vec(), now + MARK).is_none()
    }

    /// Whether a message for the set would be refused, as far as is known: a set within it is marked.
    ///
    /// When every such mark has run out, this one goes through to find out, and the next ones wait another [`MARK`] for what it finds.
    fn refuses(&mut self, set: &[SubscriptionName], now: Instant) -> bool {
        if self.0.iter().any(|(marked, until)| *until > now && is_within(marked, set)) {
            return true;
        }
        for (_, until) in self.0.iter_mut().filter(|(marked, _)| is_within(marked, set)) {
            *until = now + MARK;
        }
        false
    }
}

/// What the last outcome that says anything says: nacked or confirmed. A return and silence say nothing about room.
fn newest(outcomes: &[Published]) -> Option<bool> {
    outcomes.iter().rev().find_map(|outcome| match outcome {
        Published::Confirmed => Some(false),
        Published::Nacked => Some(true),
        Published::Returned { .. } | Published::Unknown => None,
    })
}

fn is_within(set: &[SubscriptionName], other: &[SubscriptionName]) -> bool {
    set.iter().all(|name| other.contains(name))
}

fn names(set: &[SubscriptionName]) -> String {
    set.iter().map(SubscriptionName::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
