//! `decide`: the verdict table, row by row.

use countersign_delivery::check::{Check, Mark};
use countersign_delivery::decide::{Evidence, Verdict, WaitFor, decide, lane_of};
use countersign_delivery::policy::Policy;
use countersign_delivery::probe::LaneView;
use countersign_delivery::receipt::FailReason;
use countersign_delivery::state::{Command, ParkReason, ResendReason, Signed};
use countersign_delivery::{Attempt, Delivery, Timestamp};

use crate::support::*;

const FIRST: Attempt = Attempt::FIRST;
const SECOND: Attempt = attempt(0, 2);

/// Nothing proves anything yet: seven probes sent, none of them twice in a row.
const QUIET: LaneView = LaneView { latest: 7, proven: 0 };

fn judge(check: &Check, row: Option<&Delivery>, lane: Option<LaneView>) -> Verdict {
    let evidence = Evidence { delivery: row, lane, waited_ms: 0, now: NOW };
    decide(check, &subscription(), evidence, &policy())
}

fn mark(probe_after: u64, live_until: Option<Timestamp>) -> Mark {
    Mark { subscription: subscription(), probe_after, live_until }
}

fn marked(attempt: Attempt, mark: Mark) -> Check {
    Check { marks: vec![mark], ..check(attempt) }
}

fn wait(why: WaitFor) -> Verdict {
    Verdict::Wait { why, mark: None, wants_probe_after: None }
}

fn wait_for_probes(probe_after: u64, live_until: Option<Timestamp>) -> Verdict {
    let mark = Some(mark(probe_after, live_until));
    Verdict::Wait { why: WaitFor::Probes, mark, wants_probe_after: Some(probe_after) }
}

fn failed(attempt: Attempt) -> Signed {
    Signed::Failed { attempt, reason: FailReason::Rejected, detail: String::new() }
}

fn resending(attempt: Attempt, lease_until: Timestamp) -> Command {
    Command::Resending { attempt, lease_until, unknown_answers: 0 }
}

#[test]
fn what_was_said_decides_at_once() {
    let (past, future) = (Some(at(-1)), Some(at(1)));
    let (processing, retrying) =
        (Signed::Processing { attempt: FIRST }, Signed::Retrying { attempt: FIRST, delay_ms: 9, detail: "busy".into() });
    let done = Signed::Done { attempt: FIRST };
    let parked = Command::Parked { attempt: FIRST, reason: ParkReason::Gone };
    let rows: Vec<(&str, Signed, Command, Option<Timestamp>, Verdict)> = vec![
        ("signed", done.clone(), Command::None, None, Verdict::Verified),
        ("signed while an order is open", done.clone(), resending(SECOND, at(9)), future, Verdict::Verified),
        ("signed although parked", done, parked.clone(), None, Verdict::Verified),
        ("failed", failed(FIRST), Command::None, None, Verdict::Park(ParkReason::Failed(FailReason::Rejected))),
        (
            "failed after a live word",
            failed(FIRST),
            Command::None,
            future,
            Verdict::Park(ParkReason::Failed(FailReason::Rejected)),
        ),
        ("a later try failed", failed(SECOND), Command::None, None, Verdict::Park(ParkReason::Failed(FailReason::Rejected))),
        ("parked", Signed::Nothing, parked.clone(), None, Verdict::Stale),
        ("parked, and failed too", failed(FIRST), parked, None, Verdict::Stale),
        ("processing", processing.clone(), Command::None, future, wait(WaitFor::Processing)),
        ("retrying", retrying.clone(), Command::None, future, wait(WaitFor::Retrying)),
        ("its processing is over", processing.clone(), Command::None, past, wait_for_probes(7, past)),
        ("its processing ends now", processing, Command::None, Some(NOW), wait_for_probes(7, Some(NOW))),
        ("its retry is over", retrying, Command::None, past, wait_for_probes(7, past)),
        ("silence", Signed::Nothing, Command::Resent { attempt: FIRST }, None, wait_for_probes(7, None)),
    ];
    for (name, signed, command, live_until, expected) in rows {
        let row = delivery(signed, command, live_until);
        assert_eq!(judge(&check(FIRST), Some(&row), Some(QUIET)), expected, "{name}");
    }
    assert_eq!(judge(&check(FIRST), None, Some(QUIET)), wait_for_probes(7, None), "no row at all");
}

fn repeated(attempt: Attempt) -> Verdict {
    Verdict::Resend { attempt, why: ResendReason::Repeated }
}

fn lost(attempt: Attempt, probe: u64) -> Verdict {
    Verdict::Resend { attempt, why: ResendReason::Lost { probe } }
}

#[test]
fn an_older_epochs_failure_does_not_park_a_redriven_message() {
    let redriven = attempt(1, 1);
    let row = delivery(failed(attempt(0, 1)), Command::Resent { attempt: redriven }, None);
    assert_eq!(judge(&check(redriven), Some(&row), Some(QUIET)), wait_for_probes(7, None));
}

#[test]
fn an_open_order_is_repeated_by_the_check_before_it_and_by_no_other() {
    let rows = [
        ("its lease is over", resending(SECOND, NOW), FIRST, repeated(SECOND)),
        ("its lease lives", resending(SECOND, at(1)), FIRST, wait(WaitFor::Order)),
        ("the order is two tries on", resending(attempt(0, 3), NOW), FIRST, Verdict::Stale),
        ("the order is a redrive", resending(attempt(1, 1), NOW), FIRST, Verdict::Stale),
        ("swept after a redrive", resending(attempt(1, 1), NOW), attempt(1, 0), repeated(attempt(1, 1))),
        ("it was answered", Command::Resent { attempt: SECOND }, FIRST, Verdict::Stale),
        ("the check is the order's own", resending(SECOND, NOW), SECOND, wait_for_probes(7, None)),
    ];
    for (name, command, tried, expected) in rows {
        let row = delivery(Signed::Nothing, command, None);
        assert_eq!(judge(&check(tried), Some(&row), Some(QUIET)), expected, "{name}");
    }
    let live = delivery(Signed::Processing { attempt: FIRST }, resending(SECOND, NOW), Some(at(1)));
    assert_eq!(judge(&check(FIRST), Some(&live), Some(QUIET)), wait(WaitFor::Processing), "a live word comes first");
}

#[test]
fn a_wait_for_somebody_elses_order_keeps_the_mark() {
    let row = delivery(Signed::Nothing, resending(SECOND, at(1)), None);
    let kept = Verdict::Wait { why: WaitFor::Order, mark: Some(mark(3, None)), wants_probe_after: None };
    assert_eq!(judge(&marked(FIRST, mark(3, None)), Some(&row), Some(QUIET)), kept);
}

#[test]
fn lost_takes_proof_newer_than_the_first_look_and_than_the_last_live_word() {
    let past = Some(at(-1));
    let row = delivery(Signed::Processing { attempt: FIRST }, Command::None, past);
    let lost = lost(SECOND, 8);
    let rows = [
        ("not looked at before, whatever is proven", None, 9, wait_for_probes(9, past)),
        ("proven up to the mark only", Some(mark(7, past)), 7, wait_for_probes(7, past)),
        ("proven past the mark", Some(mark(7, past)), 8, lost),
        ("the mark is older than the last live word", Some(mark(7, None)), 8, wait_for_probes(9, past)),
        ("the mark is of another live word", Some(mark(7, Some(at(-2)))), 8, wait_for_probes(9, past)),
    ];
    for (name, mark, proven, expected) in rows {
        let check = Check { marks: mark.into_iter().collect(), ..check(FIRST) };
        let lane = LaneView { latest: 9, proven };
        assert_eq!(judge(&check, Some(&row), Some(lane)), expected, "{name}");
    }
    let others = Mark { subscription: countersign_delivery::SubscriptionName::new("audit").unwrap(), ..mark(1, past) };
    let lane = Some(LaneView { latest: 9, proven: 9 });
    assert_eq!(judge(&marked(FIRST, others), Some(&row), lane), wait_for_probes(9, past), "another subscription's mark");
}

#[test]
fn resends_run_out_per_epoch() {
    let lane = Some(LaneView { latest: 9, proven: 9 });
    let exhausted = Verdict::Park(ParkReason::ResendsExhausted);
    for epoch in 0..2 {
        let verdicts = (1..=5).map(|number| judge(&marked(attempt(epoch, number), mark(8, None)), None, lane));
        let resend = |number| lost(attempt(epoch, number), 9);
        let expected = [resend(2), resend(3), resend(4), exhausted.clone(), exhausted.clone()];
        assert_eq!(verdicts.collect::<Vec<_>>(), expected, "three resends, then a human");
    }
    let none = Policy { max_resends: 0, ..policy() };
    let evidence = Evidence { delivery: None, lane, waited_ms: 0, now: NOW };
    assert_eq!(decide(&marked(FIRST, mark(8, None)), &subscription(), evidence, &none), exhausted);
}

#[test]
fn a_consumer_without_probes_has_a_time_out() {
    let judge = |waited_ms| {
        let evidence = Evidence { delivery: None, lane: None, waited_ms, now: NOW };
        decide(&check(FIRST), &subscription(), evidence, &policy())
    };
    let limit = policy().unprobed_timeout_ms;
    assert_eq!(judge(limit - 1), wait(WaitFor::Timeout));
    let timed_out = ResendReason::TimedOut { waited_ms: limit };
    assert_eq!(judge(limit), Verdict::Resend { attempt: SECOND, why: timed_out });
}

#[test]
fn only_an_equal_fingerprint_verifies() {
    let of_impostor = |signed| Delivery { facts: facts(impostor()), ..delivery(signed, Command::None, Some(at(1))) };
    let done = of_impostor(Signed::Done { attempt: FIRST });
    assert_eq!(judge(&check(FIRST), Some(&done), Some(QUIET)), Verdict::Park(ParkReason::Conflict));
    for signed in [Signed::Processing { attempt: FIRST }, failed(FIRST)] {
        let row = of_impostor(signed);
        assert_eq!(judge(&check(FIRST), Some(&row), Some(QUIET)), wait_for_probes(7, None), "it counts as absent");
    }
}

#[test]
fn a_probe_follows_a_message_through_its_retry_tier() {
    let lane = |signed| lane_of(&subscription(), Some(&delivery(signed, Command::None, None))).retry_delay_ms;
    assert_eq!(lane(Signed::Retrying { attempt: FIRST, delay_ms: 60_000, detail: "busy".into() }), Some(60_000));
    assert_eq!(lane(Signed::Processing { attempt: FIRST }), None);
    assert_eq!(lane_of(&subscription(), None).retry_delay_ms, None);
}
