use countersign_delivery::ports::messages::{IncarnationState, Inserted, Insertion, Messages as _, Numbered};
use countersign_delivery::{MessageId, Seq};
use countersign_testkit::build::{a_message_with, a_topology, incarnation, upstream};

use super::*;
use crate::accept::NewMessage;
use crate::send::{Accepted, Outcome as Sent};
use crate::stage::{Process, Stage, an_order, is_closed, pass, section};

/// An hour, which the manual clock passes in one step.
const RETENTION_MS: u64 = 3_600_000;
/// More than the pause between two looks and a heartbeat.
const A_LOOK_MS: u64 = 65_000;

fn short() -> UpstreamSection {
    UpstreamSection { retention_ms: RETENTION_MS, ..section() }
}

async fn start(stage: &Stage, section: UpstreamSection) -> Process {
    let process = stage.start_on(section, Arc::new(stage.messages.clone()));
    pass(1).await;
    process
}

/// An order under a key.
fn keyed(key: &str) -> NewMessage {
    NewMessage { idempotency_key: key.into(), ..an_order(key) }
}

async fn send(process: &Process, message: NewMessage) -> Accepted {
    match process.upstream.send(message).await {
        Sent::Confirmed(accepted) | Sent::Committed(accepted) => accepted,
        refused @ Sent::Refused(_) => panic!("{refused:?}"),
    }
}

async fn is_stored(stage: &Stage, id: MessageId) -> bool {
    !stage.messages.get(&[id]).await.unwrap().is_empty()
}

#[tokio::test(start_paused = true)]
async fn what_is_settled_and_old_goes_and_its_key_is_free() {
    let stage = Stage::new();
    let process = start(&stage, short()).await;
    let first = send(&process, keyed("a")).await;
    pass(A_LOOK_MS).await;
    stage.clock.advance(RETENTION_MS);
    pass(A_LOOK_MS).await;
    assert!(is_stored(&stage, first.id).await, "exactly as old as the retention is not older");
    let repeat = send(&process, keyed("a")).await;
    assert!(repeat.duplicate && repeat.id == first.id, "{repeat:?}");
    stage.clock.advance(1);
    pass(A_LOOK_MS).await;
    assert!(!is_stored(&stage, first.id).await);
    let again = send(&process, keyed("a")).await;
    assert!(!again.duplicate && again.id != first.id, "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn what_the_broker_has_not_confirmed_stays_however_old_and_is_published() {
    let stage = Stage::new();
    let process = start(&stage, short()).await;
    let settled = send(&process, an_order("settled")).await;
    pass(A_LOOK_MS).await;
    stage.broker.go_down();
    let unsettled = send(&process, an_order("unsettled")).await;
    stage.clock.advance(100 * RETENTION_MS);
    pass(3 * A_LOOK_MS).await;
    assert!(!is_stored(&stage, settled.id).await && is_stored(&stage, unsettled.id).await);
    stage.broker.come_up();
    pass(A_LOOK_MS).await;
    assert!(stage.delivered("orders").contains(&unsettled.id.to_string()));
    pass(A_LOOK_MS).await;
    assert!(!is_stored(&stage, unsettled.id).await, "settled now, and old");
}

#[tokio::test(start_paused = true)]
async fn a_successor_finds_all_that_the_dead_left_unsettled_however_old() {
    let stage = Stage::new();
    let process = start(&stage, short()).await;
    send(&process, an_order("settled")).await;
    pass(2_000).await;
    stage.broker.go_down();
    let unsettled = send(&process, an_order("unsettled")).await;
    let dead = stage.heartbeat().await.incarnation;
    process.kill().await;
    stage.clock.advance(100 * RETENTION_MS);
    let _successor = start(&stage, short()).await;
    pass(A_LOOK_MS).await;
    assert!(is_stored(&stage, unsettled.id).await && !is_closed(&stage, dead));
    stage.broker.come_up();
    pass(2 * A_LOOK_MS).await;
    assert!(stage.delivered("orders").contains(&unsettled.id.to_string()));
    assert_eq!(stage.messages.heartbeat(dead), None, "closed, emptied, and gone with its heartbeat");
}

#[tokio::test(start_paused = true)]
async fn a_retention_of_zero_keeps_everything() {
    let stage = Stage::new();
    let process = start(&stage, UpstreamSection { retention_ms: 0, ..section() }).await;
    let accepted = send(&process, an_order("1")).await;
    stage.clock.advance(1_000_000 * RETENTION_MS);
    pass(3 * A_LOOK_MS).await;
    assert!(is_stored(&stage, accepted.id).await);
}

#[tokio::test(start_paused = true)]
async fn many_replicas_clear_a_large_backlog_in_bounded_batches() {
    const ROWS: u64 = 2_000;
    let stage = Stage::new();
    let gone = incarnation(77);
    stage.messages.open(&upstream("shop"), gone, gone.minted_at()).await.unwrap();
    let batch: Vec<_> = (1..=ROWS).map(|n| Numbered { seq: Seq(n), message: a_message_with(10_000 + n, "old") }).collect();
    let Insertion::Committed(rows) = stage.messages.insert(gone, &batch).await.unwrap() else { panic!("it is open") };
    assert!(rows.iter().all(|row| *row == Inserted::Stored));
    stage.messages.close(gone).await.unwrap();
    stage.clock.advance(RETENTION_MS + 1);
    let _replicas = (start(&stage, short()).await, start(&stage, short()).await);
    assert_eq!(stage.messages.heartbeat(gone).map(|row| row.state), Some(IncarnationState::Closed), "not all at once");
    pass(A_LOOK_MS).await;
    assert_eq!(stage.messages.heartbeat(gone), None);
}

#[tokio::test(start_paused = true)]
async fn a_database_that_is_away_only_delays_it_and_the_soft_stop_ends_it() {
    let stage = Stage::new();
    let process = start(&stage, short()).await;
    let accepted = send(&process, an_order("1")).await;
    pass(2_000).await;
    stage.messages.go_down();
    stage.clock.advance(RETENTION_MS + 1);
    pass(A_LOOK_MS).await;
    stage.messages.come_up();
    assert!(is_stored(&stage, accepted.id).await);
    pass(A_LOOK_MS).await;
    assert!(!is_stored(&stage, accepted.id).await);
    process.stop().await;
}

#[test]
fn the_retention_must_outlast_the_longest_resend_of_any_subscription() {
    let topology = a_topology();
    let policy = Policy::default();
    let with = |retention_ms| UpstreamSection { retention_ms, ..UpstreamSection::default() };
    let horizon = longest_resend_horizon_ms(&topology, &policy, 30_000, 30_000);
    assert_eq!(problem(&with(horizon), &topology, &policy), None);
    assert_eq!(problem(&with(0), &topology, &policy), None);
    let said = problem(&with(horizon - 1), &topology, &policy).unwrap();
    assert!(said.contains(&format!("after {horizon} ms")), "{said}");
    let slow = UpstreamSection { handler_timeout_ms: 30_001, ..with(horizon) };
    assert!(problem(&slow, &topology, &policy).is_some(), "a slower handler");
}

#[test]
fn what_may_be_deleted_is_older_than_the_retention() {
    let at = Timestamp::from_millis;
    assert!(may_be_deleted(10, at(111), at(100)));
    assert!(!may_be_deleted(10, at(110), at(100)) && !may_be_deleted(10, at(99), at(100)));
    assert!(!may_be_deleted(0, at(1_000_000), at(0)));
}
