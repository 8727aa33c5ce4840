//! Who is dead: a heartbeat that stood still for a lease, on the observer's own monotonic clock. Pure.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use countersign_delivery::IncarnationId;
use countersign_delivery::ports::messages::Heartbeat;
use tokio::time::Instant;

/// What this process has seen of all heartbeats.
#[derive(Debug, Default)]
pub(super) struct Observer {
    seen: HashMap<IncarnationId, Sight>,
    last: Option<Instant>,
}

/// When the heartbeats were read: at some time between the question and its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub asked: Instant,
    pub answered: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Sight {
    counter: u64,
    adopter: Option<IncarnationId>,
    /// Since when both stand still.
    since: Instant,
}

impl Observer {
    /// Takes in what the table shows now, and returns what may be adopted.
    ///
    /// An observer that was away itself (stopped, or without its database) cannot know what moved meanwhile: it starts over. A heartbeat
    /// has stood still from the answer that first showed it to the question that last showed it, however long the answers took.
    pub(super) fn dead(
        &mut self,
        Reading { asked, answered }: Reading,
        rows: &[Heartbeat],
        own: &HashSet<IncarnationId>,
        lease: Duration,
    ) -> Vec<Heartbeat> {
        if self.last.is_some_and(|last| answered - last > lease / 2) {
            self.seen.clear();
        }
        self.last = Some(answered);
        self.seen.retain(|incarnation, _| rows.iter().any(|row| row.incarnation == *incarnation));
        for row in rows {
            let fresh = Sight { counter: row.counter, adopter: row.adopter, since: answered };
            let sight = self.seen.entry(row.incarnation).or_insert(fresh);
            if (sight.counter, sight.adopter) != (row.counter, row.adopter) {
                *sight = fresh;
            }
        }
        let stood_still = |sight: &Sight| asked.saturating_duration_since(sight.since) >= lease;
        let still = |row: &Heartbeat| self.seen.get(&row.incarnation).is_some_and(stood_still);
        let adopter_is_gone = |row: &Heartbeat| match row.adopter {
            None => true,
            // Claimed by us, and not finished: taken up again.
            Some(adopter) if own.contains(&adopter) => true,
            // A closed adopter is in no row.
            Some(adopter) => rows.iter().find(|row| row.incarnation == adopter).is_none_or(still),
        };
        let dead = rows.iter().filter(|row| !own.contains(&row.incarnation) && still(row) && adopter_is_gone(row));
        dead.cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use countersign_delivery::ports::messages::IncarnationState;
    use countersign_delivery::{Seq, Timestamp};
    use countersign_testkit::build::incarnation;

    use super::*;

    const LEASE: Duration = Duration::from_secs(10);

    fn row(name: u64, counter: u64, adopter: Option<u64>) -> Heartbeat {
        Heartbeat {
            incarnation: incarnation(name),
            counter,
            watermark: Seq::FIRST,
            settled_until: Timestamp::default(),
            adopter: adopter.map(incarnation),
            state: IncarnationState::Open,
        }
    }

    struct Watch {
        observer: Observer,
        now: Instant,
        /// How long each answer takes.
        slow: Duration,
    }

    impl Watch {
        /// Looks once a second, `seconds` times, at the same rows; returns what is dead at the last look.
        fn look(&mut self, seconds: u64, rows: &[Heartbeat]) -> Vec<IncarnationId> {
            let own = HashSet::from([incarnation(1)]);
            let mut dead = Vec::new();
            for _ in 0..seconds {
                self.now += Duration::from_secs(1);
                let reading = Reading { asked: self.now, answered: self.now + self.slow };
                dead = self.observer.dead(reading, rows, &own, LEASE);
            }
            dead.into_iter().map(|row| row.incarnation).collect()
        }
    }

    fn a_watch() -> Watch {
        Watch { observer: Observer::default(), now: Instant::now(), slow: Duration::ZERO }
    }

    #[test]
    fn a_heartbeat_that_stands_still_for_a_lease_is_dead_and_ours_never_is() {
        let mut watch = a_watch();
        let rows = [row(1, 5, None), row(2, 7, None)];
        assert_eq!(watch.look(10, &rows), []);
        assert_eq!(watch.look(1, &rows), [incarnation(2)]);
    }

    #[test]
    fn a_beat_starts_the_lease_over() {
        let mut watch = a_watch();
        assert_eq!(watch.look(10, &[row(2, 7, None)]), []);
        assert_eq!(watch.look(10, &[row(2, 8, None)]), []);
        assert_eq!(watch.look(1, &[row(2, 8, None)]), [incarnation(2)]);
    }

    #[test]
    fn what_a_live_adopter_has_claimed_is_left_to_it() {
        let mut watch = a_watch();
        for beat in 0..30 {
            assert_eq!(watch.look(1, &[row(2, 7, Some(3)), row(3, beat, None)]), []);
        }
    }

    #[test]
    fn what_a_dead_or_closed_adopter_has_claimed_is_adoptable_again() {
        let mut watch = a_watch();
        assert_eq!(watch.look(11, &[row(2, 7, Some(3)), row(3, 1, None)]), [incarnation(2), incarnation(3)]);
        let mut watch = a_watch();
        assert_eq!(watch.look(11, &[row(2, 7, Some(3))]), [incarnation(2)]);
    }

    #[test]
    fn what_we_claimed_and_did_not_finish_is_taken_up_again() {
        assert_eq!(a_watch().look(11, &[row(2, 7, Some(1))]), [incarnation(2)]);
    }

    #[test]
    fn the_time_that_answers_take_counts_for_the_living() {
        let mut watch = Watch { slow: Duration::from_secs(4), ..a_watch() };
        let rows = [row(2, 7, None)];
        assert_eq!(watch.look(14, &rows), [], "13 s from question to question, 9 s in which it certainly stood still");
        assert_eq!(watch.look(1, &rows), [incarnation(2)]);
    }

    #[test]
    fn a_question_that_takes_half_a_lease_tells_nothing_about_the_dead() {
        let mut watch = a_watch();
        let rows = [row(2, 7, None)];
        for _ in 0..20 {
            // As the observer's loop does: the next question comes after the answer.
            watch.now += LEASE / 2;
            assert_eq!(watch.look(1, &rows), []);
        }
    }

    #[test]
    fn an_observer_that_was_away_starts_over() {
        let mut watch = a_watch();
        let rows = [row(2, 7, None)];
        assert_eq!(watch.look(10, &rows), []);
        watch.now += Duration::from_mins(1);
        assert_eq!(watch.look(10, &rows), []);
        assert_eq!(watch.look(1, &rows), [incarnation(2)]);
    }
}
