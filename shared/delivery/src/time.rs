//! Time as the protocol knows it: a number that somebody else read off a clock.

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From milliseconds since the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// This time moved forward by `millis` milliseconds, saturating.
    #[must_use]
    pub const fn plus_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_add_unsigned(millis))
    }

    /// This time moved back by `millis` milliseconds, saturating.
    #[must_use]
    pub const fn minus_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_sub_unsigned(millis))
    }

    /// Milliseconds from `earlier` to this time; 0 when `earlier` is later.
    #[must_use]
    pub const fn millis_since(self, earlier: Self) -> u64 {
        if self.0 <= earlier.0 { 0 } else { self.0.abs_diff(earlier.0) }
    }
}

/// A difference between two clocks that is worth a word, milliseconds.
pub const MAX_SKEW_MS: i64 = 2_000;

/// How far a clock that showed a time within `theirs` is from one that went from `ours.0` to `ours.1` meanwhile, at least;
/// positive: theirs is ahead. Milliseconds.
#[must_use]
pub const fn skew_ms(ours: (i64, i64), theirs: (i64, i64)) -> i64 {
    if theirs.0 > ours.1 {
        theirs.0 - ours.1
    } else if theirs.1 < ours.0 {
        theirs.1 - ours.0
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_certain_counts() {
        let rows = [
            ((100, 200), (150, 150), 0),
            ((100, 200), (0, 100), 0),
            ((100, 200), (200, 1_200), 0),
            ((100, 200), (300, 1_300), 100),
            ((5_000, 5_100), (3_000, 4_000), -1_000),
        ];
        for (ours, theirs, expected) in rows {
            assert_eq!(skew_ms(ours, theirs), expected, "{ours:?} {theirs:?}");
        }
    }
}
