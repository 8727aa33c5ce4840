use std::time::Duration;

use countersign_callback::check::Outcome;
use countersign_callback::command_resend::{self, Order, Wanted, Written, command_resend};
use countersign_callback::upstreams::Answer;
use countersign_delivery::check::{Check, CheckBatch};
use countersign_delivery::state::{Command, ParkReason, ResendReason};
use countersign_delivery::{Outcome as Signed, Timestamp};
use countersign_testkit::build::{a_check, a_check_of, a_message, a_message_with, a_receipt, facts_of, subscription, upstream};
use countersign_wire::checks;

use crate::rig::{BREAKER_FAILURES, PATIENCE, Reply, Rig, Settings, attempt, batch_of, delivered};

fn order(rig: &Rig) -> Order {
    let wanted = vec![Wanted {
        subscription: subscription("inventory"),
        seen_live_until: rig.row(&a_message()).and_then(|row| row.live_until),
        why: ResendReason::Lost { probe: 2 },
    }];
    let (message_id, facts) = (a_message().id, facts_of(&a_message()));
    Order { message_id, facts, attempt: attempt(2), effect_epoch: 0, wanted, trace: None, cause: tracing::Span::none() }
}

async fn ordered(rig: &Rig, order: Order) -> command_resend::Outcome {
    command_resend(&rig.desk, vec![order], Written::NotYet).await.unwrap().remove(0).remove(0)
}

fn open_attempt(rig: &Rig) -> Option<u32> {
    match rig.row(&a_message())?.command {
        Command::Resending { attempt, .. } => Some(attempt.number),
        _ => None,
    }
}

#[tokio::test]
async fn a_failed_call_spends_nothing_and_the_same_try_is_repeated_after_the_lease() {
    let rig = Rig::new();
    rig.upstreams.will(&[Reply::Fail]);
    let again = rig.lose(&a_check()).await;
    let again = rig.look(&again).await.remove(0).1;
    assert_eq!((again.attempt, open_attempt(&rig)), (attempt(1), Some(2)));

    let again = rig.look(&again).await.remove(0).1;
    assert_eq!(rig.upstreams.calls().len(), 1, "the order's lease is not over");

    rig.clock.advance(rig.desk.policy.resend_lease_ms);
    assert!(rig.look(&again).await.is_empty());
    let attempts: Vec<u32> = rig.upstreams.calls().iter().map(|call| call.orders[0].attempt.number).collect();
    assert_eq!(attempts, [2, 2]);
    assert_eq!(rig.history(&a_message()).await.last().map(String::as_str), Some("resent 2"));
}

#[tokio::test(start_paused = true)]
async fn a_crash_between_the_order_and_the_call_spends_no_attempt() {
    let mut rig = Rig::new();
    rig.upstreams.will(&[Reply::Never]);
    let again = rig.lose(&a_check()).await;
    let due = batch_of(std::slice::from_ref(&again));
    let crashed = tokio::time::timeout(PATIENCE / 2, rig.look_at(std::slice::from_ref(&due))).await;
    assert!(crashed.is_err(), "dropped in the middle of the call");
    assert_eq!(open_attempt(&rig), Some(2));

    rig.restart();
    let (outcome, armed) = rig.look_at(std::slice::from_ref(&due)).await;
    assert!(matches!(outcome, Outcome::Checked) && armed.len() == 1);
    rig.clock.advance(rig.desk.policy.resend_lease_ms);
    assert!(rig.look(&armed[0].1).await.is_empty());
    assert_eq!(rig.upstreams.calls().last().unwrap().orders[0].attempt, attempt(2));
    assert_eq!(rig.row(&a_message()).unwrap().command, Command::Resent { attempt: attempt(2) });
}

#[tokio::test]
async fn a_crash_between_the_answer_and_its_record_repeats_the_same_try() {
    let mut rig = Rig::new();
    rig.upstreams.will(&[Reply::ResentWhileDatabaseGoes]);
    let again = rig.lose(&a_check()).await;
    let due = batch_of(std::slice::from_ref(&again));
    let (outcome, armed) = rig.look_at(std::slice::from_ref(&due)).await;
    assert!(matches!(outcome, Outcome::Held { .. }) && armed.is_empty());

    rig.restart();
    rig.deliveries.come_up();
    rig.clock.advance(rig.desk.policy.resend_lease_ms);
    assert!(rig.look(&again).await.is_empty());
    let attempts: Vec<u32> = rig.upstreams.calls().iter().map(|call| call.orders[0].attempt.number).collect();
    assert_eq!(attempts, [2, 2]);
    assert_eq!(open_attempt(&rig), None);
}

#[tokio::test]
async fn a_message_signed_since_the_verdict_is_not_ordered() {
    let rig = Rig::new();
    let stale = order(&rig);
    rig.sign(vec![a_receipt(Signed::Done)]).await;
    assert_eq!(ordered(&rig, stale).await, command_resend::Outcome::AlreadyDone);
    assert!(rig.upstreams.calls().is_empty());
}

#[tokio::test]
async fn a_subscription_that_has_spoken_since_the_verdict_is_looked_at_again() {
    let rig = Rig::new();
    let stale = order(&rig);
    rig.sign(vec![a_receipt(Signed::Processing { lease_ms: 5 })]).await;
    assert_eq!(ordered(&rig, stale).await, command_resend::Outcome::Again("spoken_since"));
    assert!(rig.upstreams.calls().is_empty());
}

#[tokio::test]
async fn of_two_callbacks_with_the_same_verdict_one_calls() {
    let rig = Rig::new();
    rig.upstreams.will(&[Reply::Fail]);
    assert_eq!(ordered(&rig, order(&rig)).await, command_resend::Outcome::Again("ordered"));
    assert_eq!(ordered(&rig, order(&rig)).await, command_resend::Outcome::Again("out_of_date"));
    assert_eq!(rig.upstreams.calls().len(), 1);
}

#[tokio::test]
async fn an_id_that_upstream_does_not_know_parks_at_the_second_answer() {
    let rig = Rig::new();
    rig.upstreams.will(&[Reply::All(Answer::UnknownId), Reply::All(Answer::UnknownId)]);
    let again = rig.lose(&a_check()).await;
    let again = rig.look(&again).await.remove(0).1;
    assert_eq!(open_attempt(&rig), Some(2));
    assert!(rig.look(&again).await.is_empty());
    assert_eq!(rig.row(&a_message()).unwrap().command, Command::Parked { attempt: attempt(2), reason: ParkReason::UnknownId });
}

#[tokio::test]
async fn a_changed_or_vanished_body_parks_at_once() {
    for (answer, reason) in [(Answer::Changed, ParkReason::Changed), (Answer::Gone, ParkReason::Gone)] {
        let rig = Rig::new();
        rig.upstreams.will(&[Reply::All(answer)]);
        let again = rig.lose(&a_check()).await;
        assert!(rig.look(&again).await.is_empty());
        assert_eq!(rig.row(&a_message()).unwrap().command, Command::Parked { attempt: attempt(2), reason });
    }
}

#[tokio::test]
async fn what_upstream_could_not_confirm_stays_ordered_and_is_looked_at_again() {
    let rig = Rig::new();
    rig.upstreams.will(&[Reply::All(Answer::NotConfirmed)]);
    let again = rig.lose(&a_check()).await;
    let armed = rig.look(&again).await;
    assert_eq!((armed.len(), open_attempt(&rig)), (1, Some(2)));
    assert_eq!(rig.history(&a_message()).await, ["resending 2"]);
}

#[tokio::test]
async fn orders_to_one_upstream_share_a_call_and_each_upstream_has_its_own() {
    let rig = Rig::new();
    let checks: Vec<Check> = (1..=3).map(|n| a_check_of(&a_message_with(n, "lost"))).collect();
    let batches = [("shop", &checks[..2]), ("bank", &checks[2..])]
        .map(|(name, checks)| delivered(checks::encode(&CheckBatch { upstream: upstream(name), checks: checks.to_vec() })));
    let (_, armed) = rig.look_at(&batches).await;
    rig.answer_probe(1).await;
    rig.clock.advance(rig.desk.policy.probe_grace_ms);
    countersign_callback::probe::send_due(&rig.desk).await.unwrap();
    rig.answer_probe(2).await;
    let again = ["shop", "bank"].map(|name| {
        let of = armed.iter().map(|(_, check)| check.clone());
        let third = checks[2].message_id;
        let checks = of.filter(|check| (check.message_id == third) == (name == "bank")).collect();
        delivered(checks::encode(&CheckBatch { upstream: upstream(name), checks }))
    });
    let (outcome, armed) = rig.look_at(&again).await;
    assert!(matches!(outcome, Outcome::Checked) && armed.is_empty());
    let mut calls: Vec<(String, usize)> =
        rig.upstreams.calls().iter().map(|call| (call.upstream.to_string(), call.orders.len())).collect();
    calls.sort();
    assert_eq!(calls, [("bank".to_owned(), 1), ("shop".to_owned(), 2)]);
}

#[tokio::test]
async fn the_first_failed_call_of_a_round_ends_it_and_nothing_more_is_ordered() {
    let rig = Rig::with(Settings { max_orders: 1, ..Settings::default() });
    rig.upstreams.will(&[Reply::Fail]);
    let other = Order { message_id: a_message_with(2, "x").id, ..order(&rig) };
    let outcomes = command_resend(&rig.desk, vec![order(&rig), other], Written::NotYet).await.unwrap();
    let again = |why| vec![command_resend::Outcome::Again(why)];
    assert_eq!(outcomes, [again("ordered"), again("call_failed")]);
    assert_eq!(rig.upstreams.calls().len(), 1);
    assert_eq!(rig.row(&a_message_with(2, "x")), None);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_keeps_failing_is_left_alone_and_then_tried_with_one_call() {
    let rig = Rig::new();
    rig.upstreams.will(&vec![Reply::Fail; usize::try_from(BREAKER_FAILURES).unwrap()]);
    for _ in 0..BREAKER_FAILURES {
        ordered(&rig, order(&rig)).await;
        rig.clock.advance(rig.desk.policy.resend_lease_ms);
    }
    let before = rig.row(&a_message());
    assert_eq!(ordered(&rig, order(&rig)).await, command_resend::Outcome::Again("breaker_open"));
    assert_eq!(rig.row(&a_message()), before, "no order is written that cannot be given");
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(ordered(&rig, order(&rig)).await, command_resend::Outcome::Resent);
}

#[tokio::test]
async fn a_done_that_overtakes_the_answer_wins() {
    let rig = Rig::new();
    rig.upstreams.will(&[Reply::Fail]);
    ordered(&rig, order(&rig)).await;
    rig.sign(vec![a_receipt(Signed::Done)]).await;
    assert!(rig.look(&a_check()).await.is_empty());
    assert_eq!(rig.upstreams.calls().len(), 1);
    assert!(rig.row(&a_message()).unwrap().due_at.is_none_or(|due| due == Timestamp::default()));
}
