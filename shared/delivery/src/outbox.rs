//! Mode `outbox`: the status of a row, and what each outcome of a publication makes of it. Pure.
//!
//! Only a nack or a return is a try: the broker has looked at the message and not taken it. Silence says nothing, so it changes nothing;
//! the row is published again when it is due. After more than `max_tries` refusals a human takes over, and a confirm that comes late
//! still counts.

use crate::time::Timestamp;

/// How a row stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// 0: it is to be published until the broker confirms it.
    Sending,
    /// 1: the broker has confirmed it, and its check if the route asks for one. The end.
    Confirmed,
    /// 2: refused too often; it waits for a human, who releases it.
    Failed,
}

impl Status {
    /// The number in the row.
    #[must_use]
    pub const fn number(self) -> i16 {
        match self {
            Self::Sending => 0,
            Self::Confirmed => 1,
            Self::Failed => 2,
        }
    }

    /// The status of a number; none for any other number.
    #[must_use]
    pub const fn of(number: i16) -> Option<Self> {
        match number {
            0 => Some(Self::Sending),
            1 => Some(Self::Confirmed),
            2 => Some(Self::Failed),
            _ => None,
        }
    }
}

/// What a row says beside its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// How it stands.
    pub status: Status,
    /// How often the broker has refused or returned it since it was stored or released.
    pub tries: u32,
    /// When it is published again unless it is confirmed before, by the database's clock.
    pub due_at: Timestamp,
    /// Why the broker did not take it the last time; none: it never refused.
    pub reason: Option<String>,
}

/// What the broker said to one publication. Silence is no outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has the message, and the check if there is one.
    Confirmed,
    /// It refused or returned the message.
    Refused {
        /// Why, for a human.
        reason: String,
    },
}

/// How patient an upstream is with a broker that refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Refusals after which one more makes a row fail.
    pub max_tries: u32,
    /// Pause after the first refusal, milliseconds; doubles with each.
    pub min_pause_ms: u64,
    /// Longest such pause, milliseconds.
    pub max_pause_ms: u64,
}

impl Patience {
    /// The pause after so many refusals, milliseconds.
    #[must_use]
    pub fn pause_ms(self, tries: u32) -> u64 {
        self.min_pause_ms.saturating_mul(1 << tries.saturating_sub(1).min(20)).min(self.max_pause_ms)
    }
}

/// What a row says after an outcome; none: it says the same.
#[must_use]
pub fn next(entry: &Entry, outcome: &Outcome, patience: Patience, now: Timestamp) -> Option<Entry> {
    match (entry.status, outcome) {
        (Status::Confirmed, _) | (Status::Failed, Outcome::Refused { .. }) => None,
        (Status::Sending | Status::Failed, Outcome::Confirmed) => Some(Entry { status: Status::Confirmed, ..entry.clone() }),
        (Status::Sending, Outcome::Refused { reason }) => {
            let (tries, reason) = (entry.tries.saturating_add(1), Some(reason.clone()));
            if tries > patience.max_tries {
                return Some(Entry { status: Status::Failed, tries, reason, due_at: entry.due_at });
            }
            Some(Entry { status: Status::Sending, tries, reason, due_at: now.plus_millis(patience.pause_ms(tries)) })
        }
    }
}

/// What a row says after an operator has released it; none: it does not wait for one.
#[must_use]
pub fn released(entry: &Entry, now: Timestamp) -> Option<Entry> {
    let status = Status::Sending;
    (entry.status == Status::Failed).then(|| Entry { status, tries: 0, due_at: now, reason: entry.reason.clone() })
}
