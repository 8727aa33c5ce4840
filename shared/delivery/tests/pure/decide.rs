//! `decide`: the verdict table row by row, and what holds for every evidence there can be.

mod everything;

use countersign_delivery::check::{Check, Mark};
use countersign_delivery::decide::{Evidence, Verdict, WaitFor, decide, is_expired, lane_of};
use countersign_delivery::policy::Policy;
use countersign_delivery::probe::LaneView;
use countersign_delivery::receipt::FailReason;
use countersign_delivery::state::{Command, ParkReason, ResendReason, Signed};
use countersign_delivery::{Attempt, Delivery, SubscriptionName, Timestamp};

use crate::support::*;

const FIRST: Attempt = Attempt::FIRST;
const SECOND: Attempt = attempt(0, 2);
/// The try after an operator's redrive.
const REDRIVEN: Attempt = attempt(1, 1);
/// Longer ago than any message of these tests was sent.
const RETENTION_MS: u64 = 3_600_000;

/// Nothing proves anything yet: seven probes sent, none of them twice in a row.
const QUIET: LaneView = LaneView { latest: 7, proven: 0 };
/// What was sent before probe 8 has been delivered, and has had its time.
const PROVEN: LaneView = LaneView { latest: 9, proven: 8 };

const REJECTED: ParkReason = ParkReason::Failed(FailReason::Rejected);

/// One line of the table: evidence and verdict.
struct Row {
    evidence: &'static str,
    check: Check,
    delivery: Option<Delivery>,
    lane: Option<LaneView>,
    waited_ms: u64,
    verdict: Verdict,
}

impl Row {
    /// A first check that meets this delivery.
    fn of(evidence: &'static str, signed: Signed, command: Command, verdict: Verdict) -> Self {
        Self { delivery: Some(delivery(signed, command, None)), ..Self::unknown(evidence, verdict) }
    }

    /// A first check of which nothing is known.
    fn unknown(evidence: &'static str, verdict: Verdict) -> Self {
        Self { evidence, check: check(FIRST), delivery: None, lane: Some(QUIET), waited_ms: 0, verdict }
    }

    fn live_until(mut self, until: Timestamp) -> Self {
        self.delivery = self.delivery.map(|delivery| Delivery { live_until: Some(until), ..delivery });
        self
    }

    fn of_impostor(mut self) -> Self {
        self.delivery = self.delivery.map(|delivery| Delivery { facts: facts(impostor()), ..delivery });
        self
    }

    fn second_effect_allowed(mut self, effect_epoch: u32) -> Self {
        self.delivery = self.delivery.map(|delivery| Delivery { effect_epoch, ..delivery });
        self
    }

    fn at_try(mut self, attempt: Attempt) -> Self {
        self.check.attempt = attempt;
        self
    }

    fn marked(mut self, probe_after: u64, live_until: Option<Timestamp>) -> Self {
        self.check.marks = vec![mark(probe_after, live_until)];
        self
    }

    fn lane(mut self, lane: LaneView) -> Self {
        self.lane = Some(lane);
        self
    }

    fn unprobed(mut self, waited_ms: u64) -> Self {
        (self.lane, self.waited_ms) = (None, waited_ms);
        self
    }

    fn old(mut self) -> Self {
        self.check.sent_at = at(-RETENTION_MS.cast_signed());
        self
    }

    fn holds(&self) {
        let (delivery, lane, waited_ms) = (self.delivery.as_ref(), self.lane, self.waited_ms);
        let evidence = Evidence { delivery, lane, waited_ms, dedup_retention_ms: RETENTION_MS, now: NOW };
        assert_eq!(decide(&self.check, &subscription(), evidence, &policy()), self.verdict, "{}", self.evidence);
    }
}

fn mark(probe_after: u64, live_until: Option<Timestamp>) -> Mark {
    Mark { subscription: subscription(), probe_after, live_until }
}

fn wait(why: WaitFor) -> Verdict {
    Verdict::Wait { why, mark: None, wants_probe_after: None }
}

fn wait_for_probes(probe_after: u64, live_until: Option<Timestamp>) -> Verdict {
    let mark = Some(mark(probe_after, live_until));
    Verdict::Wait { why: WaitFor::Probes, mark, wants_probe_after: Some(probe_after) }
}

fn repeated(attempt: Attempt) -> Verdict {
    Verdict::Resend { attempt, why: ResendReason::Repeated }
}

fn lost(attempt: Attempt, probe: u64) -> Verdict {
    Verdict::Resend { attempt, why: ResendReason::Lost { probe } }
}

fn timed_out(waited_ms: u64) -> Verdict {
    Verdict::Resend { attempt: SECOND, why: ResendReason::TimedOut { waited_ms } }
}

const fn done() -> Signed {
    Signed::Done { attempt: FIRST }
}

const fn processing() -> Signed {
    Signed::Processing { attempt: FIRST }
}

fn retrying() -> Signed {
    Signed::Retrying { attempt: FIRST, delay_ms: 9, detail: "busy".into() }
}

fn failed(attempt: Attempt) -> Signed {
    Signed::Failed { attempt, reason: FailReason::Rejected, detail: String::new() }
}

const fn resending(attempt: Attempt, lease_until: Timestamp) -> Command {
    Command::Resending { attempt, lease_until, unknown_answers: 0 }
}

const fn resent(attempt: Attempt) -> Command {
    Command::Resent { attempt }
}

const fn parked() -> Command {
    Command::Parked { attempt: FIRST, reason: ParkReason::Gone }
}

const fn discarded() -> Command {
    Command::Discarded { attempt: FIRST, reason: ParkReason::Operator }
}

/// Signed, in conflict, or dealt with by somebody else.
fn settled() -> Vec<Row> {
    use Signed::Nothing;
    let conflict = Verdict::Park(ParkReason::Conflict);
    vec![
        Row::of("done", done(), Command::None, Verdict::Verified),
        Row::of("done, while an order is open", done(), resending(SECOND, at(9)), Verdict::Verified),
        Row::of("done, and parked before", done(), parked(), Verdict::Verified),
        Row::of("done, and discarded before", done(), discarded(), Verdict::Verified),
        Row::of("done, and expired", done(), Command::None, Verdict::Verified).old(),
        Row::of("done under another fingerprint", done(), Command::None, conflict).of_impostor(),
        Row::of("another fingerprint's live word", processing(), Command::None, wait_for_probes(7, None))
            .of_impostor()
            .live_until(at(1)),
        Row::of("another fingerprint's failure", failed(FIRST), Command::None, wait_for_probes(7, None)).of_impostor(),
        Row::of("parked", Nothing, parked(), Verdict::Stale),
        Row::of("parked, and failed too", failed(FIRST), parked(), Verdict::Stale),
        Row::of("parked, and a live consumer holds it", processing(), parked(), Verdict::Stale).live_until(at(1)),
        Row::of("discarded", Nothing, discarded(), Verdict::Stale),
        Row::of("a later try was sent", Nothing, resent(SECOND), Verdict::Stale),
        Row::of("a try two further was ordered", Nothing, resending(attempt(0, 3), NOW), Verdict::Stale),
        Row::of("an operator has redriven it", Nothing, resending(REDRIVEN, NOW), Verdict::Stale),
    ]
}

/// The next try is ordered, and its answer is not known.
fn ordered() -> Vec<Row> {
    use Signed::Nothing;
    let kept = Verdict::Wait { why: WaitFor::Order, mark: Some(mark(3, None)), wants_probe_after: None };
    vec![
        Row::of("ordered, and its lease lives", Nothing, resending(SECOND, at(1)), wait(WaitFor::Order)),
        Row::of("ordered, and its lease lives: the mark is kept", Nothing, resending(SECOND, at(1)), kept).marked(3, None),
        Row::of("ordered, and its lease is over", Nothing, resending(SECOND, NOW), repeated(SECOND)),
        Row::of("ordered, its lease is over, but a live consumer holds it", processing(), resending(SECOND, NOW), {
            wait(WaitFor::Processing)
        })
        .live_until(at(1)),
        Row::of("ordered by a redrive, swept after its lease", Nothing, resending(REDRIVEN, NOW), repeated(REDRIVEN))
            .at_try(attempt(1, 0)),
        Row::of("the check is the order's own", Nothing, resending(SECOND, NOW), wait_for_probes(7, None)).at_try(SECOND),
        Row::of("ordered, its lease is over, and expired", Nothing, resending(SECOND, NOW), expired()).old(),
    ]
}

fn expired() -> Verdict {
    Verdict::Park(ParkReason::Expired)
}

/// The subscription has said something about it.
fn spoken() -> Vec<Row> {
    let park = Verdict::Park(REJECTED);
    vec![
        Row::of("a live consumer holds it", processing(), Command::None, wait(WaitFor::Processing)).live_until(at(1)),
        Row::of("a live consumer holds what is proven lost", processing(), Command::None, wait(WaitFor::Processing))
            .live_until(at(1))
            .marked(7, Some(at(1)))
            .lane(PROVEN),
        Row::of("it waits in a retry tier", retrying(), Command::None, wait(WaitFor::Retrying)).live_until(at(1)),
        Row::of("processing, and its time is over", processing(), Command::None, wait_for_probes(7, Some(at(-1))))
            .live_until(at(-1)),
        Row::of("processing, and its time ends now", processing(), Command::None, wait_for_probes(7, Some(NOW))).live_until(NOW),
        Row::of("retrying, and its time is over", retrying(), Command::None, wait_for_probes(7, Some(at(-1)))).live_until(at(-1)),
        Row::of("failed", failed(FIRST), Command::None, park.clone()),
        Row::of("failed after a live word", failed(FIRST), Command::None, park.clone()).live_until(at(1)),
        Row::of("failed at a later try", failed(SECOND), Command::None, park.clone()),
        Row::of("failed in this epoch, redriven before", failed(REDRIVEN), resent(REDRIVEN), park).at_try(REDRIVEN),
        Row::of("failed in an older epoch", failed(FIRST), resent(REDRIVEN), wait_for_probes(7, None)).at_try(REDRIVEN),
    ]
}

/// Nobody has spoken of it, or what was said is over.
fn silent() -> Vec<Row> {
    use Signed::Nothing;
    let past = Some(at(-1));
    let over = |evidence, verdict| Row::of(evidence, processing(), Command::None, verdict).live_until(at(-1));
    let at_nine = LaneView { latest: 9, proven: 9 };
    vec![
        Row::unknown("silence, first look", wait_for_probes(7, None)),
        Row::unknown("silence, first look, whatever is proven", wait_for_probes(9, None)).lane(at_nine),
        Row::unknown("silence, proven up to the mark", wait_for_probes(8, None)).marked(8, None).lane(PROVEN),
        Row::unknown("silence, proven past the mark", lost(SECOND, 8)).marked(7, None).lane(PROVEN),
        Row::of("sent again, and silence proven past the mark", Nothing, resent(SECOND), lost(attempt(0, 3), 8))
            .at_try(SECOND)
            .marked(7, None)
            .lane(PROVEN),
        over("its time is over, first look", wait_for_probes(9, past)).lane(at_nine),
        over("its time is over, proven up to the mark", wait_for_probes(8, past)).marked(8, past).lane(PROVEN),
        over("its time is over, proven past the mark", lost(SECOND, 8)).marked(7, past).lane(PROVEN),
        over("the mark is older than the last live word", wait_for_probes(9, past)).marked(7, None).lane(PROVEN),
        over("the mark is of another live word", wait_for_probes(9, past)).marked(7, Some(at(-2))).lane(PROVEN),
        Row::unknown("proven past the mark, and expired", expired()).marked(7, None).lane(PROVEN).old(),
        Row::of("proven past the mark, expired, and a second effect is allowed", Nothing, resent(REDRIVEN), {
            lost(attempt(1, 2), 8)
        })
        .second_effect_allowed(1)
        .at_try(REDRIVEN)
        .marked(7, None)
        .lane(PROVEN)
        .old(),
        Row::unknown("expired, and nothing is proven", wait_for_probes(7, None)).old(),
    ]
}

/// Its consumer signs no probes.
fn unprobed() -> Vec<Row> {
    let limit = policy().unprobed_timeout_ms;
    vec![
        Row::unknown("no probes, before the time-out", wait(WaitFor::Timeout)).unprobed(limit - 1),
        Row::unknown("no probes, after the time-out", timed_out(limit)).unprobed(limit),
        Row::unknown("no probes, after the time-out, and expired", expired()).unprobed(limit).old(),
        Row::of("no probes, after the time-out, but a live consumer holds it", processing(), Command::None, {
            wait(WaitFor::Processing)
        })
        .live_until(at(1))
        .unprobed(limit),
        Row::of("no probes, after the time-out, and failed", failed(FIRST), Command::None, Verdict::Park(REJECTED))
            .unprobed(limit),
    ]
}

/// Every try of this epoch was spent.
fn used_up() -> Vec<Row> {
    let exhausted = || Verdict::Park(ParkReason::ResendsExhausted);
    let last = policy().max_resends + 1;
    let mut rows = vec![
        Row::unknown("no probes, time-out, attempts used up", exhausted())
            .at_try(attempt(0, last))
            .unprobed(policy().unprobed_timeout_ms),
    ];
    for epoch in 0..2 {
        let lost_at = |number, verdict| {
            Row::unknown("lost at this try", verdict).at_try(attempt(epoch, number)).marked(7, None).lane(PROVEN)
        };
        rows.extend((1..last).map(|number| lost_at(number, lost(attempt(epoch, number + 1), 8))));
        rows.extend([lost_at(last, exhausted()), lost_at(last + 1, exhausted()), lost_at(last, exhausted()).old()]);
    }
    rows
}

#[test]
fn every_row_of_the_verdict_table() {
    let table = [settled(), ordered(), spoken(), silent(), unprobed(), used_up()];
    assert_eq!(table.iter().map(Vec::len).collect::<Vec<_>>(), [15, 7, 11, 13, 5, 13]);
    table.iter().flatten().for_each(Row::holds);
}

#[test]
fn without_resends_what_is_lost_is_parked_at_once() {
    let check = Check { marks: vec![mark(7, None)], ..check(FIRST) };
    let evidence = Evidence { delivery: None, lane: Some(PROVEN), waited_ms: 0, dedup_retention_ms: RETENTION_MS, now: NOW };
    let none = Policy { max_resends: 0, ..policy() };
    assert_eq!(decide(&check, &subscription(), evidence, &none), Verdict::Park(ParkReason::ResendsExhausted));
}

#[test]
fn another_subscriptions_mark_counts_for_nothing() {
    let others = Mark { subscription: SubscriptionName::new("audit").unwrap(), ..mark(1, None) };
    let mut row = Row::unknown("marked for another", wait_for_probes(9, None)).lane(PROVEN);
    row.check.marks = vec![others];
    row.holds();
}

#[test]
fn a_probe_follows_a_message_through_its_retry_tier() {
    let lane = |signed| lane_of(&subscription(), Some(&delivery(signed, Command::None, None))).retry_delay_ms;
    assert_eq!(lane(Signed::Retrying { attempt: FIRST, delay_ms: 60_000, detail: "busy".into() }), Some(60_000));
    assert_eq!(lane(processing()), None);
    assert_eq!(lane_of(&subscription(), None).retry_delay_ms, None);
}

#[test]
fn a_message_expires_at_its_consumers_memory() {
    assert!(!is_expired(at(-99), NOW, 100) && is_expired(at(-100), NOW, 100) && !is_expired(at(5), NOW, 1));
}
