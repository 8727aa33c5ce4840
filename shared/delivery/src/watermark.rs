//! The watermark: below it every message of an incarnation is settled, so a successor need not look there.

use crate::id::Seq;
use crate::seqs::Seqs;

/// The unsettled messages of one incarnation.
///
/// **Invariant (I7):** the watermark passes a seq only when it was settled, rolled back or entombed. The owner keeps this
/// behind one lock, so that a seq is assigned and registered as unsettled in one step.
#[derive(Debug)]
pub struct Tracker {
    next: Seq,
    unsettled: Seqs,
}

impl Default for Tracker {
    fn default() -> Self {
        Self { next: Seq::FIRST, unsettled: Seqs::default() }
    }
}

impl Tracker {
    /// Assigns the next seq and registers it as unsettled.
    pub fn assign(&mut self) -> Seq {
        let seq = self.next;
        self.next = seq.next();
        self.unsettled.insert(seq);
        seq
    }

    /// Marks a seq as settled (confirmed with its check), rolled back or entombed. Repeats are harmless.
    ///
    /// Returns whether it was unsettled until now.
    pub fn settle(&mut self, seq: Seq) -> bool {
        self.unsettled.remove(seq)
    }

    /// Whether this seq still waits to be settled.
    #[must_use]
    pub fn is_unsettled(&self, seq: Seq) -> bool {
        self.unsettled.contains(seq)
    }

    /// The smallest unsettled seq; the next seq when there is none.
    #[must_use]
    pub fn watermark(&self) -> Seq {
        self.unsettled.first().unwrap_or(self.next)
    }

    /// The seq that is assigned next.
    #[must_use]
    pub const fn next(&self) -> Seq {
        self.next
    }

    /// How many wait to be settled.
    #[must_use]
    pub fn unsettled(&self) -> usize {
        self.unsettled.len()
    }

    /// How far the watermark lags behind: `next seq - watermark`, 0 when everything is settled.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.next.0 - self.watermark().0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watermark_waits_for_the_oldest() {
        let mut tracker = Tracker::default();
        let (first, second, third) = (tracker.assign(), tracker.assign(), tracker.assign());
        assert!(tracker.settle(second) && tracker.settle(third));
        assert_eq!((tracker.watermark(), tracker.lag()), (first, 3));
        assert!(tracker.settle(first) && !tracker.settle(first));
        assert_eq!((tracker.watermark(), tracker.lag()), (Seq(4), 0));
    }
}
