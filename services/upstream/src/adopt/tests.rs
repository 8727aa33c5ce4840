mod replicas;

use countersign_delivery::ports::messages::{IncarnationState, Insertion, Messages as _, Numbered};
use countersign_delivery::{Message, UpstreamName};
use countersign_testkit::build::{a_message_with, incarnation, subscription, upstream};

use super::*;
use crate::send::Outcome as Sent;
use crate::stage::{Mortal, Process, Stage, an_order, is_again, is_closed, pass, section};

/// More than the lease, and the time that adopting takes.
const LONG: u64 = 20_000;

fn name() -> UpstreamName {
    upstream("shop")
}

fn a_row(number: u64) -> Message {
    Message { required: vec![subscription("orders")], ..a_message_with(1_000 + number, &number.to_string()) }
}

/// An incarnation whose process is gone, with unpublished messages, the first of them settled.
async fn a_dead_one(stage: &Stage, rows: u64) -> IncarnationId {
    let dead = incarnation(77);
    stage.messages.open(&name(), dead, dead.minted_at()).await.unwrap();
    let batch: Vec<_> = (1..=rows).map(|n| Numbered { seq: Seq(n), message: a_row(n) }).collect();
    stage.messages.insert(dead, &batch).await.unwrap();
    assert!(stage.messages.beat(dead, 1, Seq(2), dead.minted_at()).await.unwrap());
    dead
}

fn expected(rows: u64) -> Vec<String> {
    (2..=rows).map(|n| a_row(n).id.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_successor_publishes_what_the_dead_left_and_closes_it() {
    let stage = Stage::new();
    let process = stage.start().await;
    stage.broker.go_down();
    let outcome = process.upstream.send(an_order("1")).await;
    let Sent::Committed(accepted) = outcome else { panic!("{outcome:?}") };
    let dead = stage.heartbeat().await.incarnation;
    process.kill().await;
    stage.broker.come_up();

    let _successor = stage.start().await;
    pass(8_000).await;
    assert_eq!(stage.broker.published(), [], "not before the lease is over");
    pass(LONG).await;
    assert!(is_closed(&stage, dead));
    assert_eq!(stage.delivered("orders"), [accepted.id.to_string()]);
    assert!(stage.broker.ready("orders").iter().all(is_again));
    assert_eq!(stage.checks().iter().map(|check| check.message_id).collect::<Vec<_>>(), [accepted.id]);
}

#[tokio::test(start_paused = true)]
async fn an_adoption_begins_at_the_stored_watermark_and_never_moves_it() {
    let stage = Stage::new();
    let dead = a_dead_one(&stage, 5).await;
    let _process = stage.start().await;
    pass(LONG).await;
    assert!(is_closed(&stage, dead));
    assert_eq!(stage.delivered("orders"), expected(5));
    assert_eq!(stage.broker.ready("orders").len(), 4, "each once");
    assert_eq!(stage.messages.heartbeat(dead).unwrap().watermark, Seq(2));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_closed_while_the_broker_refuses() {
    let stage = Stage::new();
    let dead = a_dead_one(&stage, 5).await;
    let _process = stage.start().await;
    stage.broker.go_down();
    pass(LONG).await;
    let row = stage.messages.heartbeat(dead).unwrap();
    assert_eq!((row.state, row.watermark), (IncarnationState::Fenced, Seq(2)));
    stage.broker.come_up();
    stage.broker.nack_next(7);
    pass(LONG).await;
    assert!(is_closed(&stage, dead));
    assert_eq!(stage.delivered("orders"), expected(5));
    assert_eq!(stage.checks().len(), 4);
}

/// An adopter that can make only so many calls to the database, and dies.
async fn a_mortal_adopter(stage: &Stage, calls: usize) -> Process {
    let process = stage.start_on(section(), Arc::new(Mortal::after(calls, &stage.messages)));
    pass(LONG).await;
    process
}

#[tokio::test(start_paused = true)]
async fn an_adopter_that_dies_at_any_step_is_adopted_with_what_it_had_claimed() {
    let mut finished = Vec::new();
    for calls in 1..=8 {
        let stage = Stage::new();
        let dead = a_dead_one(&stage, 5).await;
        let adopter = a_mortal_adopter(&stage, calls).await;
        let adopted_by = stage.messages.heartbeat(dead).unwrap().adopter;
        assert!(adopted_by.is_some(), "after {calls} calls it has claimed");
        adopter.kill().await;
        finished.push(is_closed(&stage, dead));

        let _second = stage.start().await;
        pass(2 * LONG).await;
        assert!(is_closed(&stage, dead), "after {calls} calls");
        assert_eq!(stage.delivered("orders"), expected(5), "after {calls} calls");
        let checked: HashSet<_> = stage.checks().iter().map(|check| check.message_id).collect();
        assert_eq!(checked.len(), 4, "after {calls} calls");
        assert_eq!(stage.heartbeats().await.len(), 1, "after {calls} calls the adopter is adopted too");
    }
    // Claim, scan, fence, scan, close: with five calls or more the first adopter gets through.
    assert_eq!(finished, [false, false, false, false, true, true, true, true]);
}

#[tokio::test(start_paused = true)]
async fn what_is_committed_before_the_fence_is_found_after_it() {
    let stage = Stage::new();
    let dead = a_dead_one(&stage, 3).await;
    // Claimed and scanned by an adopter that died before the fence; its victim was only slow, and commits what it had begun before.
    a_mortal_adopter(&stage, 2).await.kill().await;
    let late = [Numbered { seq: Seq(9), message: a_row(9) }];
    assert_eq!(stage.messages.insert(dead, &late).await.unwrap(), Insertion::Fenced, "nothing begins after the claim");
    stage.messages.commit_open_transaction(dead, &late);

    let _second = stage.start().await;
    pass(2 * LONG).await;
    assert!(is_closed(&stage, dead));
    let mut all = expected(3);
    all.push(a_row(9).id.to_string());
    assert_eq!(stage.delivered("orders"), all);
}

#[tokio::test(start_paused = true)]
async fn an_owner_taken_for_dead_starts_a_new_incarnation() {
    let stage = Stage::new();
    let process = stage.start().await;
    stage.broker.go_down();
    let _ = process.upstream.send(an_order("1")).await;
    let row = stage.heartbeat().await;
    assert!(stage.messages.adopt(&row, incarnation(500)).await.unwrap());
    pass(2_000).await;
    let rows = stage.heartbeats().await;
    assert_eq!(rows.len(), 2, "{rows:?}");

    // Its adopter never lived, so the process adopts its own former self in the end.
    stage.broker.come_up();
    pass(LONG).await;
    assert!(is_closed(&stage, row.incarnation));
    assert_eq!(stage.delivered("orders").len(), 1);
    assert!(matches!(process.upstream.send(an_order("2")).await, Sent::Confirmed(_)));
}

#[tokio::test(start_paused = true)]
async fn two_live_processes_leave_each_other_alone() {
    let stage = Stage::new();
    let one = stage.start().await;
    let other = stage.start().await;
    pass(3 * LONG).await;
    let rows = stage.heartbeats().await;
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|row| row.adopter.is_none() && row.state == IncarnationState::Open), "{rows:?}");
    for process in [one, other] {
        assert!(matches!(process.upstream.send(an_order("1")).await, Sent::Confirmed(_)));
    }
}
