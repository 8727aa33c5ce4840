//! Which minutes can be compared.

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// A minute, milliseconds: the grain of every sum.
pub const MINUTE_MS: u64 = 60_000;

/// From one minute's beginning to another's. By the clocks that mint ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// The first minute.
    pub since: Timestamp,
    /// The minute after the last one.
    pub until: Timestamp,
}

impl Window {
    /// Whether there is no minute in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.since >= self.until
    }

    /// Whether a time is within it.
    #[must_use]
    pub fn contains(&self, at: Timestamp) -> bool {
        self.since <= at && at < self.until
    }

    /// The window in parts of at most `millis` milliseconds (whole minutes, one at least), ascending.
    pub fn slices(self, millis: u64) -> impl Iterator<Item = Self> {
        let step = (millis / MINUTE_MS).max(1) * MINUTE_MS;
        let mut since = self.since;
        std::iter::from_fn(move || {
            let slice = Self { since, until: since.plus_millis(step).min(self.until) };
            since = slice.until;
            (!slice.is_empty()).then_some(slice)
        })
    }

    /// Its first half, in whole minutes; none: it has no two minutes.
    #[must_use]
    pub fn halved(self) -> Option<Self> {
        let minutes = self.until.millis_since(self.since) / MINUTE_MS;
        (minutes >= 2).then(|| Self { until: self.since.plus_millis(minutes / 2 * MINUTE_MS), ..self })
    }

    /// The windows of these minutes (ascending), neighbours as one of at most `millis` milliseconds.
    #[must_use]
    pub fn joined(minutes: &[Timestamp], millis: u64) -> Vec<Self> {
        let mut joined: Vec<Self> = Vec::new();
        for since in minutes.iter().copied() {
            let until = since.plus_millis(MINUTE_MS);
            match joined.last_mut() {
                Some(last) if last.until == since && until.millis_since(last.since) <= millis => last.until = until,
                _ => joined.push(Self { since, until }),
            }
        }
        joined
    }
}

/// The beginning of the minute of a time.
#[must_use]
pub fn minute_of(at: Timestamp) -> Timestamp {
    let into = at.as_millis().rem_euclid(MINUTE_MS.cast_signed());
    at.minus_millis(into.unsigned_abs())
}

/// The first minute that begins at this time or later.
fn minute_from(at: Timestamp) -> Timestamp {
    let begun = minute_of(at);
    if begun == at { at } else { begun.plus_millis(MINUTE_MS) }
}

/// One end of what can be compared, and why it ends there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Where.
    pub at: Timestamp,
    /// Why, for a human.
    pub why: &'static str,
}

/// What is left of a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Narrowed {
    /// The whole minutes that can be compared; may be empty.
    pub window: Window,
    /// Why it is smaller than what was asked for; by limit that cut it.
    pub why: Vec<&'static str>,
}

/// Cuts a window to the minutes that lie wholly at or after every limit of `from` and before every one of `until`.
#[must_use]
pub fn narrow(asked: Window, from: &[Limit], until: &[Limit]) -> Narrowed {
    let latest = from.iter().max_by_key(|limit| limit.at).filter(|limit| minute_from(limit.at) > asked.since);
    let earliest = until.iter().min_by_key(|limit| limit.at).filter(|limit| minute_of(limit.at) < asked.until);
    let since = latest.map_or(asked.since, |limit| minute_from(limit.at));
    let end = earliest.map_or(asked.until, |limit| minute_of(limit.at));
    let why = latest.into_iter().chain(earliest).map(|limit| limit.why).collect();
    Narrowed { window: Window { since, until: end.max(since) }, why }
}
