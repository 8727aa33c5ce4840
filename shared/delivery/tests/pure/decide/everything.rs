//! What holds for every evidence there can be: each pair of words and commands, marks, probes, ages and tries, tens of thousands of them.

use countersign_delivery::decide::parked_as;
use countersign_delivery::probe::{Probe, view};
use countersign_delivery::state::{Event, next};

use super::*;

const TRIES: [Attempt; 5] = [attempt(0, 1), attempt(0, 2), attempt(0, 4), attempt(0, 5), attempt(1, 1)];

/// One evidence.
struct Case {
    check: Check,
    delivery: Option<Delivery>,
    lane: Option<LaneView>,
    waited_ms: u64,
}

impl Case {
    fn verdict(&self) -> Verdict {
        let (delivery, lane, waited_ms) = (self.delivery.as_ref(), self.lane, self.waited_ms);
        let evidence = Evidence { delivery, lane, waited_ms, dedup_retention_ms: RETENTION_MS, now: NOW };
        decide(&self.check, &subscription(), evidence, &policy())
    }

    /// The row, if it is of the check's own message.
    fn genuine(&self) -> Option<&Delivery> {
        self.delivery.as_ref().filter(|row| row.facts.fingerprint == self.check.fingerprint)
    }

    fn shown(&self) -> String {
        format!("{:?} meets {:?}, {:?}, waited {}", self.check, self.delivery, self.lane, self.waited_ms)
    }
}

fn words() -> Vec<Signed> {
    let of = |attempt| {
        let retrying = Signed::Retrying { attempt, delay_ms: 9, detail: String::new() };
        [Signed::Processing { attempt }, retrying, failed(attempt), Signed::Done { attempt }]
    };
    std::iter::once(Signed::Nothing).chain([TRIES[0], TRIES[1], TRIES[4]].into_iter().flat_map(of)).collect()
}

fn commands() -> Vec<Command> {
    let of = |attempt| {
        let reason = ParkReason::ResendsExhausted;
        [
            resending(attempt, at(1)),
            resending(attempt, NOW),
            resent(attempt),
            Command::Parked { attempt, reason: reason.clone() },
            Command::Discarded { attempt, reason },
        ]
    };
    std::iter::once(Command::None).chain([TRIES[0], TRIES[1], TRIES[4]].into_iter().flat_map(of)).collect()
}

fn rows() -> Vec<Option<Delivery>> {
    let mut rows = vec![None];
    for signed in words() {
        for command in commands() {
            for live_until in [None, Some(at(-1)), Some(at(1))] {
                let row = delivery(signed.clone(), command.clone(), live_until);
                rows.push(Some(Delivery { facts: facts(impostor()), ..row.clone() }));
                rows.push(Some(Delivery { effect_epoch: 1, ..row.clone() }));
                rows.push(Some(row));
            }
        }
    }
    rows
}

fn checks() -> Vec<Check> {
    let mut checks = Vec::new();
    for attempt in TRIES {
        for marks in [vec![], vec![mark(7, None)], vec![mark(7, Some(at(-1)))], vec![mark(8, None)]] {
            for sent_at in [at(-1), at(-RETENTION_MS.cast_signed())] {
                checks.push(Check { marks: marks.clone(), sent_at, ..check(attempt) });
            }
        }
    }
    checks
}

fn each(lanes: &[(Option<LaneView>, u64)], assert: impl Fn(&Case, &Verdict)) -> usize {
    let mut cases = 0;
    for delivery in rows() {
        for check in checks() {
            for (lane, waited_ms) in lanes {
                let case = Case { check: check.clone(), delivery: delivery.clone(), lane: *lane, waited_ms: *waited_ms };
                assert(&case, &case.verdict());
                cases += 1;
            }
        }
    }
    cases
}

fn every_lane() -> [(Option<LaneView>, u64); 4] {
    let limit = policy().unprobed_timeout_ms;
    [(Some(QUIET), limit), (Some(PROVEN), 0), (None, limit - 1), (None, limit)]
}

#[test]
fn what_is_done_is_verified_and_never_sent_again() {
    let cases = each(&every_lane(), |case, verdict| {
        if case.genuine().is_some_and(Delivery::is_done) {
            assert_eq!(*verdict, Verdict::Verified, "{}", case.shown());
        } else {
            assert_ne!(*verdict, Verdict::Verified, "{}", case.shown());
        }
        if case.delivery.as_ref().is_some_and(Delivery::is_done) {
            assert!(!matches!(verdict, Verdict::Resend { .. }), "{}", case.shown());
        }
    });
    assert_eq!(cases, (1 + 13 * 16 * 3 * 3) * 40 * 4, "every evidence was looked at");
}

#[test]
fn a_live_word_is_never_sent_again_and_neither_is_what_a_human_has() {
    each(&every_lane(), |case, verdict| {
        let Some(row) = case.genuine() else { return };
        let kept = row.is_live(NOW) || row.is_put_aside();
        assert!(!(kept && matches!(verdict, Verdict::Resend { .. })), "{}", case.shown());
        if row.is_live(NOW) && !row.is_put_aside() {
            assert!(matches!(verdict, Verdict::Wait { mark: None, .. } | Verdict::Stale), "{}", case.shown());
        }
    });
}

#[test]
fn whatever_is_sent_again_has_its_evidence_and_is_the_next_try() {
    each(&every_lane(), |case, verdict| {
        let Verdict::Resend { attempt, why } = verdict else { return };
        assert_eq!(*attempt, case.check.attempt.resent(), "{}", case.shown());
        let live_until = case.genuine().and_then(|row| row.live_until);
        let command = case.genuine().map_or(&Command::None, |row| &row.command);
        match *why {
            ResendReason::Lost { probe } => {
                let mark = &case.check.marks[0];
                assert!(mark.live_until == live_until && probe > mark.probe_after, "{}", case.shown());
                assert_eq!(case.lane.map(|lane| lane.proven), Some(probe), "{}", case.shown());
            }
            ResendReason::TimedOut { waited_ms } => {
                assert!(case.lane.is_none() && waited_ms >= policy().unprobed_timeout_ms, "{}", case.shown());
            }
            ResendReason::Repeated => {
                let open = matches!(command, Command::Resending { attempt: held, lease_until, .. } if held == attempt && *lease_until <= NOW);
                assert!(open, "{}", case.shown());
            }
        }
        if *why != ResendReason::Repeated {
            assert!(attempt.number <= policy().max_resends + 1, "{}", case.shown());
        }
        let allowed = case.genuine().is_some_and(|row| row.effect_epoch > 0);
        assert!(allowed || !is_expired(case.check.sent_at, NOW, RETENTION_MS), "{}", case.shown());
    });
}

#[test]
fn one_probe_never_sends_anything_again() {
    let probe = |number, floor| Probe { number, floor, stored_at: at(-100_000), answered_at: Some(at(-99_999)) };
    // Whichever it is, and however long ago it was answered: its floor is what an earlier answer has given it.
    for probes in [vec![], vec![probe(1, 0)], vec![probe(9, 0)], vec![probe(8, 0), Probe { answered_at: None, ..probe(9, 8) }]] {
        each(&[(Some(view(&probes)), u64::MAX)], |case, verdict| {
            let resent = matches!(verdict, Verdict::Resend { why, .. } if *why != ResendReason::Repeated);
            assert!(!resent, "{probes:?}: {}", case.shown());
        });
    }
}

/// Else callback would come to the same verdict at every look, and never get on.
#[test]
fn every_verdict_that_writes_can_be_written_as_long_as_nobody_writes_between() {
    each(&every_lane(), |case, verdict| {
        let facts = facts(genuine());
        let event = match verdict {
            Verdict::Resend { attempt, why } => {
                let seen_live_until = case.genuine().and_then(|row| row.live_until);
                Event::OrderResend { facts, attempt: *attempt, lease_ms: 30, seen_live_until, why: *why }
            }
            Verdict::Park(reason) => {
                let attempt = parked_as(&case.check, case.delivery.as_ref());
                Event::Park { facts, attempt, reason: reason.clone() }
            }
            Verdict::Verified | Verdict::Stale | Verdict::Wait { .. } => return,
        };
        let written = next(case.delivery.as_ref(), &event, OVERDUE_MS, NOW);
        assert!(written.is_ok(), "{written:?} for {verdict:?}: {}", case.shown());
    });
}

/// A mark is for evidence that is still to come: it never counts what is proven already.
#[test]
fn a_wait_is_marked_for_newer_evidence_or_not_at_all() {
    each(&every_lane(), |case, verdict| {
        let Verdict::Wait { why, mark, wants_probe_after } = verdict else { return };
        match (why, mark) {
            (WaitFor::Probes, Some(mark)) => {
                let lane = case.lane.expect("only where probes are signed");
                assert_eq!(*wants_probe_after, Some(mark.probe_after));
                assert!(mark.probe_after >= lane.proven, "{}", case.shown());
                assert_eq!(mark.live_until, case.genuine().and_then(|row| row.live_until), "{}", case.shown());
            }
            (WaitFor::Order, kept) => assert_eq!(kept.as_ref(), case.check.marks.first()),
            (_, mark) => assert_eq!((mark, wants_probe_after), (&None, &None), "{}", case.shown()),
        }
    });
}
