//! A random walk: the same events, applied to two adapters of [`Deliveries`], must leave the same deliveries behind.
//!
//! The two keep their own clocks, so the events are made such that no answer hangs on them: leases and delays are a random
//! order of multiples of [`STEP_MS`], far apart, or nothing at all.

use countersign_delivery::ports::deliveries::{Change, Deliveries, DeliveryKey};
use countersign_delivery::state::{Command, Event, ParkReason, ResendReason};
use countersign_delivery::{Attempt, Delivery, FailReason, Outcome, Receipt, Timestamp};

use crate::build::{a_message_with, a_receipt_of, facts_of, subscription};

/// Longer than any walk takes, milliseconds.
const STEP_MS: u64 = 10_000_000;

/// A small generator (xorshift64*), so that a walk is its seed.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// Begins a walk.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `sides`.
    pub fn below(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }
}

/// One throw: an event of one of a few deliveries, made for whichever adapter it is applied to.
#[derive(Clone, Debug)]
struct Throw {
    key: DeliveryKey,
    receipt: Receipt,
    attempt: Attempt,
    kind: u64,
    lease_ms: u64,
    sees_the_row: bool,
    reason: ParkReason,
}

impl Throw {
    fn new(dice: &mut Dice) -> Self {
        let (n, genuine) = (1 + dice.below(3), dice.below(8) > 0);
        let message = a_message_with(n, if genuine { "genuine" } else { "impostor" });
        let subscription = subscription(["inventory", "audit"][usize::from(dice.below(2) == 0)]);
        let attempt = Attempt { epoch: u32::from(dice.below(6) == 0), number: 1 + u32::try_from(dice.below(3)).unwrap_or(0) };
        let far = STEP_MS * (1 + dice.below(1_000_000));
        let reason = FailReason::ALL[usize::try_from(dice.below(8)).unwrap_or(0)];
        let outcome = match dice.below(9) {
            0 => Outcome::Done,
            1 | 2 => Outcome::Failed { reason, detail: format!("detail {n}") },
            3..=5 => Outcome::Retrying { delay_ms: far, detail: "busy".into() },
            _ => Outcome::Processing { lease_ms: far },
        };
        let receipt = Receipt { attempt, ..a_receipt_of(&message, &subscription, outcome) };
        let lease_ms = if dice.below(2) == 0 { 0 } else { far };
        Self {
            key: DeliveryKey { message_id: message.id, subscription },
            receipt,
            attempt,
            kind: dice.below(19),
            lease_ms,
            sees_the_row: dice.below(6) > 0,
            reason: [ParkReason::ResendsExhausted, ParkReason::Gone, ParkReason::Failed(reason)][usize::from(genuine)].clone(),
        }
    }

    /// The event as it looks from a row: verdicts are reached on what was seen.
    fn event(&self, row: Option<&Delivery>) -> Event<'_> {
        let facts = countersign_delivery::state::Facts {
            fingerprint: self.receipt.fingerprint.clone(),
            ..facts_of(&a_message_with(1, ""))
        };
        let attempt = self.attempt;
        match self.kind {
            0..=5 => Event::Signed(&self.receipt),
            6..=8 => {
                let seen = row.filter(|row| row.facts.fingerprint == facts.fingerprint).and_then(|row| row.live_until);
                let seen_live_until = if self.sees_the_row { seen } else { Some(Timestamp::from_millis(1)) };
                Event::OrderResend { facts, attempt, lease_ms: self.lease_ms, seen_live_until, why: ResendReason::Repeated }
            }
            9 | 10 => Event::ResendAnswered { attempt },
            11 => Event::UnknownToUpstream { attempt, max_answers: 2 },
            12 => Event::Park { facts, attempt, reason: self.reason.clone() },
            13 => Event::ParkByOperator { note: "ann".into() },
            14 => Event::Discard { note: "ann".into() },
            15 => Event::Restore { note: "ann".into() },
            16 => Event::Swept,
            _ => Event::Redrive { lease_ms: self.lease_ms, allow_duplicate: self.sees_the_row, note: "ann".into() },
        }
    }
}

/// What does not hang on a clock: of a time only whether there is one.
fn timeless(delivery: Option<&Delivery>) -> Option<(Delivery, bool, bool)> {
    delivery.map(|delivery| {
        let mut plain = delivery.clone();
        let times = (plain.live_until.take().is_some(), plain.due_at.take().is_some());
        if let Command::Resending { lease_until, .. } = &mut plain.command {
            *lease_until = Timestamp::default();
        }
        (plain, times.0, times.1)
    })
}

async fn step(deliveries: &impl Deliveries, throw: &Throw) -> String {
    let row = deliveries.look_up(std::slice::from_ref(&throw.key)).await.expect("the store is up").remove(0);
    let change = Change { key: throw.key.clone(), event: throw.event(row.as_ref()) };
    let answer = deliveries.apply(&[change]).await.expect("the store is up").remove(0);
    format!("{:?}", answer.map(|row| timeless(row.as_ref())))
}

/// Walks `steps` steps from a seed over two adapters, and compares every answer, then all rows and all histories.
///
/// # Panics
/// When they differ; the message names the seed and the step.
pub async fn both_end_alike(one: &impl Deliveries, other: &impl Deliveries, seed: u64, steps: u32) {
    let mut dice = Dice::new(seed);
    for number in 0..steps {
        let throw = Throw::new(&mut dice);
        let answers = (step(one, &throw).await, step(other, &throw).await);
        assert_eq!(answers.0, answers.1, "seed {seed}, step {number}: {throw:?}");
    }
    let all = countersign_delivery::ports::deliveries::Filter::default();
    let (rows, others) =
        (one.list(&all, 1_000).await.expect("the store is up"), other.list(&all, 1_000).await.expect("the store is up"));
    assert!(!rows.is_empty(), "seed {seed}: an empty walk proves nothing");
    assert_eq!(rows.len(), others.len(), "seed {seed}");
    for ((key, row), (other_key, other_row)) in rows.iter().zip(&others) {
        assert_eq!((key, timeless(Some(row))), (other_key, timeless(Some(other_row))), "seed {seed}");
        let lines = (one.history(key).await.expect("the store is up"), other.history(key).await.expect("the store is up"));
        let told = |lines: &[countersign_delivery::ports::deliveries::HistoryLine]| {
            lines.iter().map(|line| format!("{} {:?} {}", line.what, line.attempt, line.detail)).collect::<Vec<_>>()
        };
        assert_eq!(told(&lines.0), told(&lines.1), "seed {seed}: {key:?}");
    }
}
