//! What was found in one window of one upstream: from evidence to a certificate.

use serde::{Deserialize, Serialize};

use super::{Standing, Window};
use crate::id::{MessageId, SubscriptionName};
use crate::time::Timestamp;

/// Ids of missing messages that a line names at most.
pub const MISSING_IDS_MAX: usize = 1_000;

/// What became of a window, or of one subscription's part of it; in ascending order of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Every stored message is verified, in flight, parked or discarded.
    Certified,
    /// Nothing of it is comparable: older than what is kept, or younger than what is settled.
    Expired,
    /// A subscription answers no probe: what it has not signed may be waiting there.
    Skipped,
    /// Something is missing.
    Differs,
    /// The upstream did not answer.
    Unreachable,
}

impl State {
    /// The word used in logs, metrics and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Certified => "certified",
            Self::Expired => "expired",
            Self::Skipped => "skipped",
            Self::Differs => "differs",
            Self::Unreachable => "unreachable",
        }
    }
}

/// One subscription's part of a certificate. `stored` is the sum of all other counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Whose.
    pub subscription: SubscriptionName,
    /// Messages that upstream has stored for it.
    pub stored: u64,
    /// Signed for.
    pub verified: u64,
    /// Known to callback, and watched over by it.
    pub in_flight: u64,
    /// Left for a human.
    pub parked: u64,
    /// Discarded by a named operator.
    pub discarded: u64,
    /// Nobody has said a word about them.
    pub missing: u64,
    /// In minutes that differ and were not compared message by message, since no probe was answered.
    pub skipped: u64,
    /// Minutes that were compared message by message.
    pub minutes_compared: u64,
    /// What is missing, at most [`MISSING_IDS_MAX`] of it.
    pub missing_ids: Vec<MessageId>,
    /// The first minute with something missing or skipped; what is older is accounted for.
    pub open_from: Option<Timestamp>,
}

impl Line {
    /// Nothing stored, nothing found.
    #[must_use]
    pub const fn new(subscription: SubscriptionName) -> Self {
        Self {
            subscription,
            stored: 0,
            verified: 0,
            in_flight: 0,
            parked: 0,
            discarded: 0,
            missing: 0,
            skipped: 0,
            minutes_compared: 0,
            missing_ids: Vec::new(),
            open_from: None,
        }
    }

    /// A minute whose sums agree: all of it is verified.
    pub const fn agree(&mut self, count: u64) {
        self.stored += count;
        self.verified += count;
    }

    /// A minute that differs and cannot be compared now.
    pub fn skip(&mut self, minute: Timestamp, count: u64) {
        self.stored += count;
        self.skipped += count;
        self.open(minute);
    }

    /// One message of a minute that was compared.
    pub fn count(&mut self, minute: Timestamp, id: MessageId, standing: Standing) {
        self.stored += 1;
        match standing {
            Standing::Verified => self.verified += 1,
            Standing::InFlight => self.in_flight += 1,
            Standing::Parked => self.parked += 1,
            Standing::Discarded => self.discarded += 1,
            Standing::Missing => {
                self.missing += 1;
                self.open(minute);
                if self.missing_ids.len() < MISSING_IDS_MAX {
                    self.missing_ids.push(id);
                }
            }
        }
    }

    fn open(&mut self, minute: Timestamp) {
        self.open_from = Some(self.open_from.map_or(minute, |open| open.min(minute)));
    }

    /// `Certified`, `Skipped` or `Differs`.
    #[must_use]
    pub const fn state(&self) -> State {
        match (self.missing, self.skipped) {
            (0, 0) => State::Certified,
            (0, _) => State::Skipped,
            _ => State::Differs,
        }
    }

    /// Whether `stored` is the sum of the other counts.
    #[must_use]
    pub const fn adds_up(&self) -> bool {
        let known = self.verified + self.in_flight + self.parked + self.discarded;
        self.stored == known + self.missing + self.skipped
    }
}

/// What was found in one window of one upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Whose messages: a name, or an address at which nobody gave one.
    pub upstream: String,
    /// The worst of its lines, unless nothing was comparable or answered.
    pub state: State,
    /// What was asked for.
    pub asked: Window,
    /// What could be compared of it; may be empty.
    pub compared: Window,
    /// By subscription, in the order of their names.
    pub lines: Vec<Line>,
    /// Why it was narrowed, skipped or not answered; for a human, may be empty.
    pub detail: String,
    /// When it was drawn up, by MSG DB's clock.
    pub at: Timestamp,
    /// How long it took, milliseconds.
    pub took_ms: u64,
}

impl Certificate {
    /// Draws a certificate up from what was compared.
    #[must_use]
    pub fn of(upstream: String, asked: Window, compared: Window, lines: Vec<Line>, why: &[String]) -> Self {
        let worst = lines.iter().map(Line::state).max().unwrap_or(State::Certified);
        let state = if compared.is_empty() { State::Expired } else { worst };
        let detail = why.join("; ");
        Self { upstream, state, asked, compared, lines, detail, at: Timestamp::default(), took_ms: 0 }
    }

    /// A certificate that certifies nothing, since the upstream did not answer.
    #[must_use]
    pub fn unreachable(upstream: String, asked: Window, why: String) -> Self {
        let compared = Window { since: asked.since, until: asked.since };
        Self {
            upstream,
            state: State::Unreachable,
            asked,
            compared,
            lines: Vec::new(),
            detail: why,
            at: Timestamp::default(),
            took_ms: 0,
        }
    }

    /// Until when, from the beginning of what was compared, every message is accounted for; none if nothing was compared.
    #[must_use]
    pub fn certified_until(&self) -> Option<Timestamp> {
        if self.compared.is_empty() || self.state == State::Unreachable {
            return None;
        }
        let open = self.lines.iter().filter_map(|line| line.open_from).min();
        Some(open.unwrap_or(self.compared.until).max(self.compared.since))
    }

    /// The sum of one count over all lines.
    #[must_use]
    pub fn sum(&self, count: impl Fn(&Line) -> u64) -> u64 {
        self.lines.iter().map(count).sum()
    }
}
