//! Takes dead letters in: what lies in a dead-letter queue or in quarantine is stored whole in MSG DB, then acked, and waits there for an
//! operator.
//!
//! What can fail: MSG DB (nothing is acked, the letters come again); this process, before or after the write (the broker delivers the same
//! copies again, which are stored once); nobody deals with them (when as many wait as may, the intake stops and letters stay in their queue).
//!
//! **Invariant:** a letter is acked only when MSG DB has it.

use std::sync::{Mutex, PoisonError};

use countersign_boot::{Failpoint, failpoint};
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::broker::Delivered;
use countersign_delivery::ports::dead_letters::{Label, NewLetter};
use countersign_delivery::{SubscriptionName, Timestamp, Topology};
use countersign_telemetry::names;
use countersign_wire::dead_letter;
use countersign_wire::dead_letter::packed::{identity, pack};

use crate::desk::Desk;
use crate::error::Error;

/// How long a count of those that wait is believed, milliseconds; beyond it this process goes on from what it has taken in itself.
const COUNT_HOLDS_MS: u64 = 10_000;

/// A queue of dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its name.
    pub queue: String,
    /// Whose letters these are; none: quarantine.
    pub subscription: Option<SubscriptionName>,
}

impl Source {
    /// Every queue of dead letters, quarantine first.
    #[must_use]
    pub fn all(topology: &Topology) -> Vec<Self> {
        let quarantine = Self { queue: topology.quarantine_queue(), subscription: None };
        let dead = topology
            .subscriptions
            .iter()
            .map(|subscription| Self { queue: subscription.dead_queue(), subscription: Some(subscription.name.clone()) });
        std::iter::once(quarantine).chain(dead).collect()
    }
}

/// What became of deliveries of a queue of dead letters.
#[derive(Debug)]
pub enum Outcome {
    /// Stored: ack all of them.
    TakenIn,
    /// Ack all but those at these positions; come again with them.
    Held {
        /// Indexes into what was given, ascending.
        positions: Vec<usize>,
        /// What is in the way.
        why: Error,
    },
}

/// Stores what was delivered, as far as there is room. Idempotent: the same deliveries may be given again.
pub async fn take_in(desk: &Desk, source: &Source, delivered: &[Delivered]) -> Outcome {
    let held = |from: usize, why| Outcome::Held { positions: (from..delivered.len()).collect(), why };
    let room = match desk.room.left(desk).await {
        Ok(left) => usize::try_from(left).unwrap_or(usize::MAX).min(delivered.len()),
        Err(error) => return held(0, error.into()),
    };
    let letters: Vec<NewLetter> = delivered[..room].iter().map(|one| letter(source, one)).collect();
    if !letters.is_empty() {
        match desk.letters.take_in(&letters).await {
            Ok(new) => desk.room.taken(new),
            Err(error) => return held(0, error.into()),
        }
        for letter in &letters {
            tell(source, letter);
        }
        failpoint(Failpoint::CallbackLettersAfterStore);
    }
    if room < delivered.len() {
        return held(room, Error::Full { most: desk.figures.max_dead_letters });
    }
    Outcome::TakenIn
}

fn letter(source: &Source, delivered: &Delivered) -> NewLetter {
    let read = dead_letter::read(delivered);
    let packed = pack(delivered);
    NewLetter {
        identity: identity(&source.queue, &packed, &delivered.body),
        subscription: source.subscription.clone(),
        label: Label {
            message_id: read.message_id,
            upstream: read.upstream,
            kind: read.kind,
            fingerprint: read.fingerprint,
            reason: read.reason,
            died_at: read.died_at,
        },
        packed,
        body: delivered.body.clone(),
    }
}

/// Counts and logs one letter, by its identity; never what is in it.
fn tell(source: &Source, NewLetter { label, .. }: &NewLetter) {
    let subscription = source.subscription.as_ref().map(ToString::to_string).unwrap_or_default();
    metrics::counter!(names::DEAD_LETTERS_TOTAL, "subscription" => subscription).increment(1);
    let (message_id, upstream, reason) = (&label.message_id, &label.upstream, &label.reason);
    tracing::info!(message_id, upstream, reason, queue = source.queue, "a dead letter was taken in");
}

/// How many letters may still be taken in, as far as this process knows. Replicas count for themselves, so that together they may store a few
/// more than the bound.
#[derive(Debug, Default)]
pub struct Room(Mutex<Option<Counted>>);

/// The letters that wait, when they were counted last, and those taken in since.
#[derive(Clone, Copy, Debug)]
struct Counted {
    at: Timestamp,
    waiting: u64,
}

impl Room {
    /// Counts anew when the last count is old, or says that there is no room.
    async fn left(&self, desk: &Desk) -> Result<u64, PortError> {
        let most = desk.figures.max_dead_letters;
        let now = desk.clock.now();
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = |counted: &Counted| now.millis_since(counted.at) < COUNT_HOLDS_MS && counted.waiting < most;
        let waiting = match known.filter(holds) {
            Some(counted) => counted.waiting,
            None => self.count(desk).await?,
        };
        Ok(most.saturating_sub(waiting))
    }

    /// Counts those that wait, and tells the metric.
    ///
    /// # Errors
    /// [`PortError`].
    pub async fn count(&self, desk: &Desk) -> Result<u64, PortError> {
        let waiting = desk.letters.waiting(desk.figures.max_dead_letters).await?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Counted { at: desk.clock.now(), waiting });
        #[allow(clippy::cast_precision_loss, reason = "a gauge; far below 2^52")]
        metrics::gauge!(names::DEAD_LETTERS_WAITING).set(waiting as f64);
        Ok(waiting)
    }

    fn taken(&self, new: u64) {
        if let Some(counted) = self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            counted.waiting = counted.waiting.saturating_add(new);
        }
    }
}
