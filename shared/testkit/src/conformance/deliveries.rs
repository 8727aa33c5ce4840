//! What [`Deliveries`] promise. The set-up makes them with [`OVERDUE_MS`].

use std::collections::BTreeSet;

use countersign_delivery::ports::deliveries::{Change, Counts, Deliveries, DeliveryKey, Filter, state_word};
use countersign_delivery::probe::{Lane, NextProbe};
use countersign_delivery::receipt::ProbeAnswer;
use countersign_delivery::state::{Command, Event, Illegal, ParkReason, ResendReason, Signed};
use countersign_delivery::{Attempt, Delivery, FailReason, Outcome, Receipt};

use super::Waiting;
use crate::build::{a_message_with, a_receipt, a_receipt_of, facts_of, message_id, subscription};

/// The figure that the adapter under test is made with, milliseconds.
pub const OVERDUE_MS: u64 = 300;
const PAST_OVERDUE_MS: u64 = 500;
const LONG_MS: u64 = 600_000;
/// Any reason.
const WHY: ResendReason = ResendReason::Lost { probe: 7 };

/// Makes one test of each promise. `$setup` is an async function from the test's name to `(impl Deliveries, impl Waiting, _)`;
/// the last part is kept until the test has ended.
#[macro_export]
macro_rules! deliveries_suite {
    ($setup:path) => {
        $crate::deliveries_suite!($setup =>
            what_nobody_spoke_of_is_not_there,
            every_state_is_read_back_as_it_was_answered,
            events_of_one_delivery_apply_in_order,
            what_does_not_apply_stops_nothing_else,
            a_conflict_leaves_no_row,
            of_many_callbacks_one_wins_the_order,
            of_many_receipts_none_is_lost,
            noted_transitions_leave_a_line_each,
            overdue_comes_oldest_first,
            a_list_filters_and_goes_on_after_a_key,
            a_messages_deliveries_come_by_subscription,
            counts_say_what_stands_where,
            a_large_batch_is_applied_whole,
            a_probes_number_is_stored_once,
            a_probes_first_answer_counts,
            lanes_keep_their_own_probes,
        );
    };
    ($setup:path => $($promise:ident),* $(,)?) => {
        $(#[tokio::test]
        async fn $promise() {
            let (deliveries, time, _kept) = $setup(stringify!($promise)).await;
            $crate::conformance::deliveries::$promise(&deliveries, &time).await;
        })*
    };
}

fn key(n: u64, name: &str) -> DeliveryKey {
    DeliveryKey { message_id: message_id(n), subscription: subscription(name) }
}

fn of(receipt: &Receipt) -> Change<'_> {
    let key = DeliveryKey { message_id: receipt.message_id, subscription: receipt.subscription.clone() };
    Change { key, event: Event::Signed(receipt) }
}

fn receipt(n: u64, name: &str, outcome: Outcome) -> Receipt {
    a_receipt_of(&a_message_with(n, "x"), &subscription(name), outcome)
}

fn failed(reason: FailReason) -> Outcome {
    Outcome::Failed { reason, detail: "because \"so\" – ä".into() }
}

fn order(n: u64, attempt: Attempt, lease_ms: u64) -> Change<'static> {
    let facts = facts_of(&a_message_with(n, "x"));
    let event = Event::OrderResend { facts, attempt, lease_ms, seen_live_until: None, why: WHY };
    Change { key: key(n, "inventory"), event }
}

fn park(n: u64, reason: ParkReason) -> Change<'static> {
    let facts = facts_of(&a_message_with(n, "x"));
    Change { key: key(n, "inventory"), event: Event::Park { facts, attempt: Attempt::FIRST, reason } }
}

async fn apply(deliveries: &impl Deliveries, changes: &[Change<'_>]) -> Vec<Result<Option<Delivery>, Illegal>> {
    let answers = deliveries.apply(changes).await.expect("the store is up");
    assert_eq!(answers.len(), changes.len());
    answers
}

async fn row(deliveries: &impl Deliveries, key: DeliveryKey) -> Option<Delivery> {
    deliveries.look_up(&[key]).await.expect("the store is up").remove(0)
}

/// As the name says, for commands too; look-ups answer in order, repeats included.
pub async fn what_nobody_spoke_of_is_not_there(deliveries: &impl Deliveries, _: &impl Waiting) {
    apply(deliveries, &[of(&receipt(2, "inventory", Outcome::Done))]).await;
    let keys = [key(1, "inventory"), key(2, "inventory"), key(2, "audit"), key(2, "inventory")];
    let rows = deliveries.look_up(&keys).await.expect("the store is up");
    assert_eq!(rows.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true, false, true]);
    assert_eq!(deliveries.look_up(&[]).await.expect("the store is up"), []);
    let swept = Change { key: key(1, "inventory"), event: Event::Swept };
    assert_eq!(apply(deliveries, &[swept]).await, [Err(Illegal::Absent)]);
    assert_eq!(deliveries.history(&key(1, "inventory")).await.expect("the store is up"), []);
}

/// As the name says: every word of the subscription under every command.
pub async fn every_state_is_read_back_as_it_was_answered(deliveries: &impl Deliveries, _: &impl Waiting) {
    let mut outcomes = vec![
        None,
        Some(Outcome::Processing { lease_ms: LONG_MS }),
        Some(Outcome::Retrying { delay_ms: 1_000, detail: "busy".into() }),
        Some(Outcome::Done),
    ];
    outcomes
        .extend(FailReason::ALL.into_iter().filter(|reason| *reason != FailReason::Conflict).map(|reason| Some(failed(reason))));
    let second = Attempt::FIRST.resent();
    let answered = |n| Change { key: key(n, "inventory"), event: Event::ResendAnswered { attempt: second } };
    let unknown = |n| Change { key: key(n, "inventory"), event: Event::UnknownToUpstream { attempt: second, max_answers: 9 } };
    let mut n = 0;
    let mut words = BTreeSet::new();
    for outcome in &outcomes {
        for command in 0..5 {
            n += 1;
            let changes = match command {
                0 => vec![],
                1 => vec![order(n, second, LONG_MS)],
                2 => vec![order(n, second, LONG_MS), unknown(n)],
                3 => vec![order(n, second, LONG_MS), answered(n)],
                _ => vec![park(
                    n,
                    [ParkReason::ResendsExhausted, ParkReason::Failed(FailReason::Poison)][usize::from(n % 2 == 0)].clone(),
                )],
            };
            apply(deliveries, &changes).await;
            let mut signed = None;
            if let Some(outcome) = outcome {
                let receipt = receipt(n, "inventory", outcome.clone());
                signed = apply(deliveries, &[of(&receipt)]).await.remove(0).expect("a receipt is never illegal");
                assert_eq!(signed, row(deliveries, key(n, "inventory")).await, "{outcome:?} under command {command}");
            }
            words.extend(signed.as_ref().map(state_word));
        }
    }
    assert_eq!(words, BTreeSet::from(["done", "failed", "parked", "processing", "resending", "resent", "retrying"]));
}

/// As the name says, within one batch.
pub async fn events_of_one_delivery_apply_in_order(deliveries: &impl Deliveries, _: &impl Waiting) {
    let processing = a_receipt(Outcome::Processing { lease_ms: LONG_MS });
    let retrying = a_receipt(Outcome::Retrying { delay_ms: LONG_MS, detail: "busy".into() });
    let done = a_receipt(Outcome::Done);
    let answers = apply(deliveries, &[of(&processing), of(&retrying), of(&done), of(&processing)]).await;
    let signed: Vec<Signed> =
        answers.into_iter().map(|answer| answer.expect("never illegal").expect("there is a row").signed).collect();
    let attempt = Attempt::FIRST;
    let done = Signed::Done { attempt };
    assert_eq!(
        signed,
        [
            Signed::Processing { attempt },
            Signed::Retrying { attempt, delay_ms: LONG_MS, detail: "busy".into() },
            done.clone(),
            done.clone()
        ]
    );
    let stored = row(deliveries, key(1, "inventory")).await.expect("there is a row");
    assert_eq!((stored.signed, stored.due_at), (done, None));
}

/// As the name says: an error answers its own change only.
pub async fn what_does_not_apply_stops_nothing_else(deliveries: &impl Deliveries, _: &impl Waiting) {
    let done = receipt(1, "inventory", Outcome::Done);
    let second = Attempt::FIRST.resent();
    let answers =
        apply(deliveries, &[of(&done), order(1, second, LONG_MS), order(2, second, LONG_MS), order(2, second, LONG_MS)]).await;
    assert!(matches!(answers[..], [Ok(Some(_)), Err(Illegal::AlreadyDone), Ok(Some(_)), Err(Illegal::OutOfDate)]), "{answers:?}");
    assert!(row(deliveries, key(1, "inventory")).await.is_some_and(|row| row.is_done()));
    let second = row(deliveries, key(2, "inventory")).await.expect("there is a row").command;
    assert!(matches!(second, Command::Resending { .. }), "{second:?}");
}

/// As the name says: an impostor's receipt never touches the genuine message's state.
pub async fn a_conflict_leaves_no_row(deliveries: &impl Deliveries, _: &impl Waiting) {
    let conflict = a_receipt(failed(FailReason::Conflict));
    assert_eq!(apply(deliveries, &[of(&conflict)]).await, [Ok(None)]);
    assert_eq!(row(deliveries, key(1, "inventory")).await, None);
}

/// As the name says: the compare-and-set holds under concurrency.
pub async fn of_many_callbacks_one_wins_the_order(deliveries: &impl Deliveries, _: &impl Waiting) {
    apply(deliveries, &[of(&receipt(1, "inventory", Outcome::Processing { lease_ms: 1 }))]).await;
    let seen_live_until = row(deliveries, key(1, "inventory")).await.and_then(|row| row.live_until);
    let facts = facts_of(&a_message_with(1, "x"));
    let event = Event::OrderResend { facts, attempt: Attempt::FIRST.resent(), lease_ms: LONG_MS, seen_live_until, why: WHY };
    let changes = [Change { key: key(1, "inventory"), event }];
    let race = || deliveries.apply(&changes);
    let (a, b, c, d) = tokio::join!(race(), race(), race(), race());
    let answers = [a, b, c, d].map(|answers| answers.expect("the store is up").remove(0));
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1, "{answers:?}");
    let losers = answers.iter().filter_map(|answer| answer.as_ref().err());
    assert!(losers.clone().all(|why| *why == Illegal::OutOfDate), "{answers:?}");
    assert_eq!(deliveries.history(&key(1, "inventory")).await.expect("the store is up").len(), 1);
}

/// As the name says: concurrent batches that overlap, in different orders, all get through.
pub async fn of_many_receipts_none_is_lost(deliveries: &impl Deliveries, _: &impl Waiting) {
    let receipts: Vec<Receipt> = (1..=60).map(|n| receipt(n, "inventory", Outcome::Done)).collect();
    let early: Vec<Receipt> = (1..=60).map(|n| receipt(n, "inventory", Outcome::Processing { lease_ms: LONG_MS })).collect();
    let up: Vec<_> = receipts.iter().map(of).collect();
    let down: Vec<_> = receipts.iter().rev().map(of).collect();
    let odd: Vec<_> = early.iter().rev().step_by(2).map(of).collect();
    let even: Vec<_> = early.iter().step_by(2).map(of).collect();
    let answers = tokio::join!(deliveries.apply(&up), deliveries.apply(&down), deliveries.apply(&odd), deliveries.apply(&even));
    let (a, b, c, d) = answers;
    for answer in [a, b, c, d] {
        assert!(answer.expect("the store is up").iter().all(Result::is_ok));
    }
    let keys: Vec<_> = (1..=60).map(|n| key(n, "inventory")).collect();
    let rows = deliveries.look_up(&keys).await.expect("the store is up");
    assert!(rows.iter().all(|row| row.as_ref().is_some_and(Delivery::is_done)));
}

/// As the name says, oldest first; what is not noted leaves none.
pub async fn noted_transitions_leave_a_line_each(deliveries: &impl Deliveries, _: &impl Waiting) {
    let second = Attempt::FIRST.resent();
    let processing = receipt(1, "inventory", Outcome::Processing { lease_ms: LONG_MS });
    let late = receipt(1, "inventory", Outcome::Done);
    let inventory = key(1, "inventory");
    let change = |event| Change { key: inventory.clone(), event };
    apply(
        deliveries,
        &[
            order(1, second, LONG_MS),
            change(Event::UnknownToUpstream { attempt: second, max_answers: 3 }),
            change(Event::ResendAnswered { attempt: second }),
            of(&processing),
            change(Event::Swept),
            park(1, ParkReason::ResendsExhausted),
            Change {
                event: Event::Park { facts: facts_of(&a_message_with(1, "x")), attempt: second, reason: ParkReason::Gone },
                ..park(1, ParkReason::Gone)
            },
            change(Event::Redrive { lease_ms: LONG_MS, allow_duplicate: false, note: "by ann".into() }),
        ],
    )
    .await;
    apply(deliveries, &[of(&late)]).await;
    let lines = deliveries.history(&inventory).await.expect("the store is up");
    let told: Vec<_> = lines.iter().map(|line| (line.what.as_str(), line.attempt, line.detail.as_str())).collect();
    let (redriven, lost) = (second.redriven(), WHY.to_string());
    let expected = [
        ("resending", second, lost.as_str()),
        ("resending", second, "unknown_id"),
        ("resent", second, ""),
        ("parked", second, "gone"),
        ("resending", redriven, "redriven by ann"),
        ("done", Attempt::FIRST, ""),
    ];
    assert_eq!(told, expected);
    assert!(lines.is_sorted_by_key(|line| line.at));
}

/// As the name says, up to a limit; what is settled is never overdue, and a sweep puts it off.
pub async fn overdue_comes_oldest_first(deliveries: &impl Deliveries, time: &impl Waiting) {
    for n in [3, 1, 2] {
        apply(deliveries, &[of(&receipt(n, "inventory", Outcome::Retrying { delay_ms: 1, detail: "busy".into() }))]).await;
        time.pass(20).await;
    }
    apply(
        deliveries,
        &[of(&receipt(4, "inventory", Outcome::Done)), park(5, ParkReason::Gone), order(6, Attempt::FIRST.resent(), LONG_MS)],
    )
    .await;
    assert_eq!(deliveries.overdue(10).await.expect("the store is up"), []);
    time.pass(PAST_OVERDUE_MS).await;
    let numbers = |rows: Vec<(DeliveryKey, Delivery)>| rows.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    let first = |n| key(n, "inventory");
    assert_eq!(numbers(deliveries.overdue(10).await.expect("the store is up")), [first(3), first(1), first(2)]);
    assert_eq!(numbers(deliveries.overdue(2).await.expect("the store is up")), [first(3), first(1)]);
    apply(deliveries, &[Change { key: first(3), event: Event::Swept }]).await;
    assert_eq!(numbers(deliveries.overdue(10).await.expect("the store is up")), [first(1), first(2)]);
}

/// As the name says.
pub async fn a_list_filters_and_goes_on_after_a_key(deliveries: &impl Deliveries, _: &impl Waiting) {
    for n in (1..=6).rev() {
        let outcome = if n % 2 == 0 { Outcome::Done } else { Outcome::Retrying { delay_ms: 1_000, detail: "busy".into() } };
        let (a, b) = (receipt(n, "audit", outcome.clone()), receipt(n, "inventory", outcome));
        apply(deliveries, &[of(&b), of(&a)]).await;
    }
    let list = async |filter: Filter, limit| -> Vec<DeliveryKey> {
        let rows = deliveries.list(&filter, limit).await.expect("the store is up");
        rows.into_iter().map(|(key, _)| key).collect()
    };
    let all: Vec<DeliveryKey> = (1..=6).flat_map(|n| [key(n, "audit"), key(n, "inventory")]).collect();
    assert_eq!(list(Filter::default(), 100).await, all);
    assert_eq!(list(Filter::default(), 3).await, all[..3]);
    assert_eq!(list(Filter { after: Some(all[4].clone()), ..Filter::default() }, 3).await, all[5..8]);
    let retrying =
        Filter { states: vec!["retrying".into(), "parked".into()], subscription: Some(subscription("audit")), after: None };
    assert_eq!(list(retrying.clone(), 100).await, [key(1, "audit"), key(3, "audit"), key(5, "audit")]);
    let after = Some(key(1, "audit"));
    assert_eq!(list(Filter { after, ..retrying }, 1).await, [key(3, "audit")]);
    assert_eq!(list(Filter { states: vec!["resending".into()], ..Filter::default() }, 100).await, []);
}

/// As the name says: each figure up to the bound, what is done not at all, and the oldest of what nobody has signed for.
pub async fn counts_say_what_stands_where(deliveries: &impl Deliveries, _: &impl Waiting) {
    let counts = async |most| deliveries.counts(most).await.expect("the store is up");
    assert_eq!(counts(10).await, Counts::default());
    let retrying = || Outcome::Retrying { delay_ms: 1_000, detail: "busy".into() };
    let mut receipts = [
        receipt(1, "inventory", Outcome::Done),
        receipt(2, "inventory", failed(FailReason::Poison)),
        receipt(3, "inventory", retrying()),
        receipt(4, "inventory", retrying()),
        receipt(5, "inventory", retrying()),
    ];
    for (age, receipt) in receipts.iter_mut().rev().enumerate() {
        receipt.sent_at = receipt.sent_at.minus_millis(u64::try_from(age).expect("few"));
    }
    let mut changes: Vec<Change<'_>> = receipts.iter().map(of).collect();
    changes.extend([
        park(6, ParkReason::Gone),
        park(7, ParkReason::Gone),
        park(8, ParkReason::Expired),
        park(1, ParkReason::Gone),
    ]);
    changes.push(order(9, Attempt::FIRST.resent(), LONG_MS));
    apply(deliveries, &changes).await;
    let table = |rows: &[(&str, u64)]| rows.iter().map(|(word, count)| ((*word).to_owned(), *count)).collect();
    let oldest_unsigned = Some(receipts[2].sent_at);
    let all = Counts {
        states: table(&[("failed", 1), ("parked", 3), ("resending", 1), ("retrying", 3)]),
        parked: table(&[("expired", 1), ("gone", 2)]),
        oldest_unsigned,
    };
    assert_eq!(counts(10).await, all);
    let bounded = counts(2).await;
    assert_eq!(bounded.states, table(&[("failed", 1), ("parked", 2), ("resending", 1), ("retrying", 2)]));
    // Which of the three are looked at is the store's affair.
    let parked: Vec<u64> = bounded.parked.values().copied().collect();
    assert!(parked.iter().all(|figure| *figure <= 2) && (2..=3).contains(&parked.iter().sum::<u64>()), "{bounded:?}");
}

/// As the name says.
pub async fn a_messages_deliveries_come_by_subscription(deliveries: &impl Deliveries, _: &impl Waiting) {
    for name in ["zeta", "audit", "inventory"] {
        apply(deliveries, &[of(&receipt(1, name, Outcome::Done)), of(&receipt(2, name, Outcome::Done))]).await;
    }
    let rows = deliveries.of_message(message_id(1)).await.expect("the store is up");
    let keys: Vec<_> = rows.into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, [key(1, "audit"), key(1, "inventory"), key(1, "zeta")]);
    assert_eq!(deliveries.of_message(message_id(9)).await.expect("the store is up"), []);
}

/// As the name says: more than any database's number of bound values allows at once.
pub async fn a_large_batch_is_applied_whole(deliveries: &impl Deliveries, _: &impl Waiting) {
    let receipts: Vec<Receipt> = (1..=4_000).map(|n| receipt(n, "inventory", Outcome::Done)).collect();
    let changes: Vec<_> = receipts.iter().map(of).collect();
    let answers = apply(deliveries, &changes).await;
    assert!(answers.iter().all(|answer| matches!(answer, Ok(Some(row)) if row.is_done())));
    let keys: Vec<_> = (1..=4_000).map(|n| key(n, "inventory")).collect();
    let rows = deliveries.look_up(&keys).await.expect("the store is up");
    assert!(rows.iter().all(Option::is_some));
}

fn straight() -> Lane {
    Lane { subscription: subscription("inventory"), retry_delay_ms: None }
}

/// As the name says: of two replicas one is told that it was the other.
pub async fn a_probes_number_is_stored_once(deliveries: &impl Deliveries, _: &impl Waiting) {
    let lane = straight();
    let store = |number, floor| deliveries.store_probe(&lane, NextProbe { number, floor });
    let (a, b) = tokio::join!(store(1, 0), store(1, 0));
    let stored = [a.expect("the store is up"), b.expect("the store is up")];
    assert_eq!(stored.iter().filter(|stored| **stored).count(), 1, "{stored:?}");
    assert!(store(2, 1).await.expect("the store is up"));
    let probes = deliveries.probes(std::slice::from_ref(&lane)).await.expect("the store is up").remove(0);
    let told: Vec<_> = probes.iter().map(|probe| (probe.number, probe.floor, probe.answered_at)).collect();
    assert_eq!(told, [(1, 0, None), (2, 1, None)]);
    let now = deliveries.now().await.expect("the store is up");
    assert!(probes.iter().all(|probe| now.millis_since(probe.stored_at) < LONG_MS && probe.stored_at <= now));
}

/// As the name says; repeats and strangers change nothing.
pub async fn a_probes_first_answer_counts(deliveries: &impl Deliveries, time: &impl Waiting) {
    let lane = straight();
    deliveries.store_probe(&lane, NextProbe { number: 1, floor: 0 }).await.expect("the store is up");
    deliveries.store_probe(&lane, NextProbe { number: 2, floor: 0 }).await.expect("the store is up");
    let answer = |number| ProbeAnswer { lane: straight(), number };
    time.pass(20).await;
    deliveries.probes_answered(&[answer(2), answer(2), answer(9)]).await.expect("the store is up");
    let first = deliveries.probes(std::slice::from_ref(&lane)).await.expect("the store is up");
    time.pass(20).await;
    deliveries.probes_answered(&[answer(2)]).await.expect("the store is up");
    deliveries.probes_answered(&[]).await.expect("the store is up");
    assert_eq!(deliveries.probes(&[lane]).await.expect("the store is up"), first);
    let [one, two] = first[0][..] else { panic!("two probes, not {first:?}") };
    assert_eq!(one.answered_at, None);
    assert!(two.answered_at.is_some_and(|at| at > two.stored_at), "{two:?}");
}

/// As the name says; the last 64 are handed out, ascending.
pub async fn lanes_keep_their_own_probes(deliveries: &impl Deliveries, _: &impl Waiting) {
    let retry = Lane { retry_delay_ms: Some(1_000), ..straight() };
    let audit = Lane { subscription: subscription("audit"), retry_delay_ms: None };
    for number in 1..=70 {
        assert!(deliveries.store_probe(&straight(), NextProbe { number, floor: 0 }).await.expect("the store is up"));
    }
    assert!(deliveries.store_probe(&retry, NextProbe { number: 1, floor: 0 }).await.expect("the store is up"));
    deliveries.probes_answered(&[ProbeAnswer { lane: retry.clone(), number: 1 }]).await.expect("the store is up");
    let lanes = deliveries.probes(&[audit, retry, straight()]).await.expect("the store is up");
    assert_eq!(lanes.iter().map(|probes| probes.len() > 63).collect::<Vec<_>>(), [false, false, true]);
    assert!(lanes[0].is_empty() && lanes[1].len() == 1 && lanes[1][0].answered_at.is_some());
    assert!(lanes[2].is_sorted_by_key(|probe| probe.number) && lanes[2].last().is_some_and(|probe| probe.number == 70));
    assert!(lanes[2].iter().all(|probe| probe.answered_at.is_none()));
}
