//! Until when everything that was minted is settled, without a time for each message.
//!
//! Once a heartbeat a sample is taken: the time, and the next seq. Ids are minted with their seqs, in the same order, so whatever was
//! minted before that time has a lower seq; when the watermark has reached the sample's seq, all of it is settled. With nothing unsettled
//! that holds for the sample just taken, so the answer is now.
//!
//! **Invariant:** the time is never ahead of the oldest unsettled message's, and never goes back. Any subset of the samples keeps that, so
//! when there are too many, every second one is forgotten, and those to come are taken farther apart: the time then moves in larger steps,
//! of about a thirtieth of the wait.
//!
//! What one incarnation has said binds those that are opened later, whose clocks may be behind: they mint nothing before it ([`floor`]).

use std::collections::VecDeque;

use crate::id::Seq;
use crate::ports::messages::Opened;
use crate::time::Timestamp;

/// How far ahead of the database's clock a promise may lie and still bind who opens, milliseconds.
pub const FLOOR_AHEAD_MAX_MS: u64 = 3_600_000;

/// The time before which a new incarnation mints nothing: `named`, when it was named by its owner's clock, or, where that clock is behind,
/// the latest time until which anybody has said that everything is settled. A certificate may have been given for that.
///
/// No promise is written that is ahead of the database's clock, so one that is ahead of it now means that this clock was set back. It is
/// kept within [`FLOOR_AHEAD_MAX_MS`]. A time farther off was never a time; ids that wait for it would be compared by no reconciliation
/// until it has come.
#[must_use]
pub fn floor(named: Timestamp, opened: Opened) -> Timestamp {
    let binds = opened.promised <= opened.now.plus_millis(FLOOR_AHEAD_MAX_MS);
    if binds { named.max(opened.promised) } else { named }
}

/// Samples that are kept at most.
const MAX_SAMPLES: usize = 64;
/// Steps that a wait is divided into when there are too many.
const STEPS: u64 = MAX_SAMPLES as u64 / 2;

/// What was minted before `at` has a seq below `next`.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Timestamp,
    next: Seq,
}

/// Until when everything that one incarnation minted is settled.
#[derive(Debug)]
pub struct Settled {
    until: Timestamp,
    /// Those that the watermark has not reached; both parts ascend.
    samples: VecDeque<Sample>,
    /// How far apart they are kept, milliseconds.
    step_ms: u64,
}

impl Settled {
    /// For an incarnation that mints nothing before `opened`.
    #[must_use]
    pub const fn since(opened: Timestamp) -> Self {
        Self { until: opened, samples: VecDeque::new(), step_ms: 0 }
    }

    /// Takes a sample, and returns the time before which everything minted is settled.
    ///
    /// `now` is a time of the source of the ids, not of another clock: nothing is minted before it any more. `next` and `watermark` are
    /// read under the lock under which ids are minted.
    pub fn sample(&mut self, now: Timestamp, next: Seq, watermark: Seq) -> Timestamp {
        // Had that source gone back, later samples would count what is still to be minted.
        while self.samples.back().is_some_and(|last| last.at > now || last.next == next) {
            self.samples.pop_back();
        }
        if self.last_two_are_close() {
            self.samples.pop_back();
        }
        self.samples.push_back(Sample { at: now, next });
        while let Some(reached) = self.samples.pop_front_if(|first| first.next <= watermark) {
            self.until = self.until.max(reached.at);
        }
        self.thin_out();
        self.until
    }

    fn last_two_are_close(&self) -> bool {
        let mut from_the_last = self.samples.iter().rev();
        let two = from_the_last.next().zip(from_the_last.next());
        two.is_some_and(|(last, before)| last.at.millis_since(before.at) < self.step_ms)
    }

    fn thin_out(&mut self) {
        let span = self.samples.front().zip(self.samples.back()).map(|(first, last)| last.at.millis_since(first.at));
        let step_ms = span.unwrap_or(0) / STEPS;
        // The wait has become shorter: smaller steps again.
        self.step_ms = self.step_ms.min(step_ms);
        if self.samples.len() > MAX_SAMPLES {
            self.step_ms = step_ms;
            let mut keep = false;
            self.samples.retain(|_| {
                keep = !keep;
                keep
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::watermark::Tracker;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn who_opens_mints_nothing_before_what_was_promised() {
        let hour = i64::try_from(FLOOR_AHEAD_MAX_MS).unwrap();
        let rows = [
            ("nobody has said anything", 1_000, 0, 1_000, 1_000),
            ("its clock is right", 1_000, 900, 1_000, 1_000),
            ("its clock is behind", 1_000, 5_000, 5_001, 5_000),
            ("its clock is ahead", 9_000, 5_000, 5_001, 9_000),
            ("all clocks are behind what was said", 1_000, 5_000, 1_000, 5_000),
            ("by no more than the bound", 1_000, 1_000 + hour, 1_000, 1_000 + hour),
            ("by more than the bound", 1_000, 1_001 + hour, 1_000, 1_000),
        ];
        for (what, named, promised, now, expected) in rows {
            assert_eq!(floor(at(named), Opened { promised: at(promised), now: at(now) }), at(expected), "{what}");
        }
    }

    #[test]
    fn with_nothing_unsettled_it_is_now() {
        let mut settled = Settled::since(at(5));
        assert_eq!(settled.sample(at(10), Seq(1), Seq(1)), at(10));
        assert_eq!(settled.sample(at(20), Seq(9), Seq(9)), at(20));
    }

    #[test]
    fn the_oldest_unsettled_holds_it_back_until_it_is_settled() {
        let mut settled = Settled::since(at(5));
        assert_eq!(settled.sample(at(10), Seq(1), Seq(1)), at(10));
        // Seq 1 was minted between 10 and 20, and others after it.
        assert_eq!(settled.sample(at(20), Seq(2), Seq(1)), at(10));
        assert_eq!(settled.sample(at(30), Seq(2), Seq(1)), at(10));
        assert_eq!(settled.sample(at(40), Seq(4), Seq(1)), at(10));
        assert_eq!(settled.sample(at(50), Seq(5), Seq(2)), at(30), "nothing was minted between 20 and 30");
        assert_eq!(settled.sample(at(60), Seq(5), Seq(5)), at(60));
    }

    #[test]
    fn it_never_goes_back_though_its_clock_does() {
        let mut settled = Settled::since(at(100));
        assert_eq!(settled.sample(at(50), Seq(1), Seq(1)), at(100));
        assert_eq!(settled.sample(at(200), Seq(3), Seq(2)), at(100));
        // What is minted between 150 and 200 now has a seq from 4 on: the sample of 200 does not hold any more.
        assert_eq!(settled.sample(at(150), Seq(4), Seq(3)), at(100));
        assert_eq!(settled.sample(at(160), Seq(5), Seq(4)), at(150));
    }

    #[test]
    fn a_long_wait_takes_a_bounded_number_of_samples_and_larger_steps() {
        let mut settled = Settled::since(at(0));
        let (mut most, mut next) = (0, Seq(2));
        for second in 1..=3_600 {
            assert_eq!(settled.sample(at(second * 1_000), next, Seq(1)), at(0));
            (most, next) = (most.max(settled.samples.len()), next.next());
        }
        assert!(most <= MAX_SAMPLES, "{most}");
        let half = settled.sample(at(3_601_000), next, Seq(1_801)).as_millis();
        assert!((1_600_000..=1_800_000).contains(&half), "{half}");
        // The backlog is caught up with; from now on each message takes three seconds, so something is always unsettled.
        for second in 3_602..3_700 {
            next = next.next();
            let until = settled.sample(at(second * 1_000), next, Seq(next.0 - 3)).as_millis();
            assert!(second < 3_610 || until >= (second - 6) * 1_000, "{until} in second {second}");
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Mint,
        Settle(usize),
        Pass(i64),
        Sample,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Mint),
            3 => any::<usize>().prop_map(Step::Settle),
            3 => (0..5_i64).prop_map(Step::Pass),
            4 => Just(Step::Sample),
        ]
    }

    proptest! {
        #[test]
        fn it_is_never_ahead_of_what_is_unsettled(steps in prop::collection::vec(step(), 1..800)) {
            let (mut settled, mut tracker, mut now) = (Settled::since(at(0)), Tracker::default(), 0);
            let (mut unsettled, mut last) = (Vec::<(Seq, i64)>::new(), at(0));
            for step in steps {
                match step {
                    Step::Mint => unsettled.push((tracker.assign(), now)),
                    Step::Settle(which) => if let Some(which) = which.checked_rem(unsettled.len()) {
                        tracker.settle(unsettled.remove(which).0);
                    },
                    Step::Pass(millis) => now += millis,
                    Step::Sample => {
                        let until = settled.sample(at(now), tracker.next(), tracker.watermark());
                        let oldest = unsettled.iter().map(|(_, minted)| *minted).min();
                        prop_assert!(until <= at(oldest.unwrap_or(now)) && until >= last);
                        prop_assert!(oldest.is_some() || until == at(now));
                        prop_assert!(settled.samples.len() <= MAX_SAMPLES);
                        last = until;
                    }
                }
            }
        }
    }
}
