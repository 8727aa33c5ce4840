//! Probes: two in a row with grace between them, and replacement at doubling intervals.

use countersign_delivery::Timestamp;
use countersign_delivery::policy::Policy;
use countersign_delivery::probe::{LaneView, NextProbe, Probe, next_probe, view};
use proptest::prelude::*;

use crate::support::*;

fn policy() -> Policy {
    Policy { probe_grace_ms: 90, probe_spacing_ms: 1, probe_replace_ms: 30, probe_replace_max_ms: 100, ..Policy::default() }
}

fn probe(number: u64, floor: u64, stored: i64, answered: Option<i64>) -> Probe {
    Probe { number, floor, stored_at: at(stored), answered_at: answered.map(at) }
}

#[test]
fn one_answer_proves_nothing_and_the_second_proves_the_first() {
    assert_eq!(view(&[]), LaneView { latest: 0, proven: 0 });
    let first = probe(1, 0, 0, Some(5));
    assert_eq!(view(&[first]), LaneView { latest: 1, proven: 0 });
    let second = probe(2, 1, 100, None);
    assert_eq!(view(&[first, second]), LaneView { latest: 2, proven: 0 });
    assert_eq!(view(&[probe(2, 1, 100, Some(110)), first]), LaneView { latest: 2, proven: 1 });
}

#[test]
fn the_second_witness_is_stored_after_the_first_ones_grace() {
    let policy = policy();
    let first = [probe(1, 0, 0, Some(5))];
    let next = |now| next_probe(&first, 0, at(now), &policy);
    assert_eq!(next(94), None, "the grace of probe 1 is not over, and nobody waits for another");
    assert_eq!(next(95), Some(NextProbe { number: 2, floor: 1 }));
    let early = next_probe(&first, 1, at(94), &policy);
    assert_eq!(early, Some(NextProbe { number: 2, floor: 0 }), "for another's sake it may go, but proves nothing of probe 1");
}

#[test]
fn an_empty_lane_begins_and_a_satisfied_one_rests() {
    let policy = policy();
    assert_eq!(next_probe(&[], 0, NOW, &policy), Some(NextProbe { number: 1, floor: 0 }));
    let proven = [probe(1, 0, 0, Some(1)), probe(2, 1, 100, Some(110))];
    assert_eq!(next_probe(&proven, 0, at(150), &policy), None, "1 is proven, and 2's grace is not over");
    assert_eq!(next_probe(&proven, 2, at(150), &policy), Some(NextProbe { number: 3, floor: 1 }));
}

#[test]
fn an_unanswered_probe_is_replaced_at_doubling_intervals_up_to_the_cap() {
    let policy = policy();
    let mut probes = vec![probe(1, 0, 0, None)];
    for interval in [30, 60, 100, 100, 100] {
        let last = probes.last().unwrap().stored_at;
        let due = last.plus_millis(interval);
        let before = Timestamp::from_millis(due.as_millis() - 1);
        assert_eq!(next_probe(&probes, 0, before, &policy), None, "after {} probes", probes.len());
        let next = next_probe(&probes, 0, due, &policy).expect("it is replaced");
        assert_eq!(next, NextProbe { number: probes.len() as u64 + 1, floor: 0 });
        probes.push(Probe { number: next.number, floor: next.floor, stored_at: due, answered_at: None });
    }
    probes[2].answered_at = Some(NOW);
    assert_eq!(view(&probes), LaneView { latest: 6, proven: 0 });
}

#[test]
fn spacing_bounds_how_many_go() {
    let policy = Policy { probe_spacing_ms: 50, ..policy() };
    let answered = [probe(1, 0, 0, Some(1))];
    assert_eq!(next_probe(&answered, 1, at(49), &policy), None);
    assert!(next_probe(&answered, 1, at(50), &policy).is_some());
}

proptest! {
    /// Whatever answers come when: the floor is a probe whose answer is older than the grace, and a check that waits gets its
    /// proof as soon as answers keep coming.
    #[test]
    fn a_floor_is_witnessed_and_waiting_ends(answers in proptest::collection::vec((any::<bool>(), 1..200_i64), 1..30), demand in 0..5_u64) {
        let policy = policy();
        let mut probes: Vec<Probe> = Vec::new();
        let mut now = 0;
        let answers = answers.into_iter().chain(std::iter::repeat_n((true, 100), 12 + usize::try_from(demand).unwrap()));
        for (answered, pause) in answers {
            now += pause;
            let Some(next) = next_probe(&probes, demand, at(now), &policy) else { continue };
            prop_assert_eq!(next.number, probes.len() as u64 + 1);
            if let Some(witness) = probes.iter().find(|probe| probe.number == next.floor) {
                prop_assert!(witness.answered_at.is_some_and(|answered| at(now).millis_since(answered) >= policy.probe_grace_ms));
            } else {
                prop_assert_eq!(next.floor, 0);
            }
            probes.push(probe(next.number, next.floor, now, answered.then_some(now)));
        }
        prop_assert!(view(&probes).proven > demand, "{probes:?}");
    }
}
