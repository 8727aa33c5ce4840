use std::sync::Arc;

use countersign_delivery::ports::Clock;
use countersign_delivery::reconcile::{MINUTE_MS, Window, minute_of};
use countersign_delivery::{MessageId, Timestamp};
use countersign_testkit::clock::ManualClock;

use crate::send::Outcome as Sent;
use crate::stage::{Process, Stage, an_order, pass};

const TEN_MINUTES: i64 = 600_000;
/// A heartbeat and more.
const A_BEAT_MS: u64 = 2_000;

/// A clock that is off by so many milliseconds.
#[derive(Debug)]
struct OffBy {
    millis: i64,
    clock: ManualClock,
}

impl Clock for OffBy {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.clock.now().as_millis() + self.millis)
    }
}

/// The same database for a process whose clock is off.
fn off_by(stage: &Stage, millis: i64) -> Stage {
    stage.clone().and_clock(Arc::new(OffBy { millis, clock: stage.clock.clone() }))
}

async fn send(process: &Process) -> MessageId {
    let outcome = process.upstream.send(an_order("1")).await;
    let Sent::Confirmed(accepted) = outcome else { panic!("{outcome:?}") };
    accepted.id
}

/// Time goes by, heartbeats are written.
async fn let_pass(stage: &Stage, millis: u64) {
    stage.clock.advance(millis);
    pass(A_BEAT_MS).await;
}

/// Until when everything is said to be settled.
async fn promised(process: &Process) -> Timestamp {
    let window = Window { since: Timestamp::default(), until: Timestamp::default().plus_millis(MINUTE_MS) };
    process.upstream.sums(window).await.unwrap().settled_until
}

#[tokio::test(start_paused = true)]
async fn who_opens_with_a_clock_that_is_behind_mints_nothing_before_what_was_promised() {
    let stage = off_by(&Stage::new(), 0);
    let first = stage.start().await;
    send(&first).await;
    let_pass(&stage, 3 * MINUTE_MS).await;
    let certified = promised(&first).await;
    assert_eq!(certified, stage.clock.now());
    first.stop().await;

    let second = off_by(&stage, -TEN_MINUTES).start().await;
    let id = send(&second).await;
    assert_eq!(id.minted_at(), certified, "in a minute that was not over, and not ten minutes ago");
    let_pass(&stage, MINUTE_MS).await;
    assert_eq!(stage.heartbeat().await.settled_until, certified, "its time stands still until its clock has come up to it");
    let third = stage.start().await;
    assert_eq!(send(&third).await.minted_at(), stage.clock.now(), "a right clock is not held back");
    let_pass(&stage, 11 * MINUTE_MS).await;
    let later = send(&second).await;
    assert_eq!(later.minted_at(), stage.clock.now().minus_millis(TEN_MINUTES.unsigned_abs()));
    assert!(promised(&third).await < later.minted_at().plus_millis(1), "the slowest clock of all is what counts");
}

#[tokio::test(start_paused = true)]
async fn a_promise_outlives_its_incarnation_and_a_clock_that_was_set_back() {
    let stage = off_by(&Stage::new(), 0);
    let first = stage.start().await;
    let_pass(&stage, 3 * MINUTE_MS).await;
    let certified = promised(&first).await;
    first.stop().await;
    // The database's clock is the same machine's.
    stage.clock.set(certified.minus_millis(2 * MINUTE_MS));
    let second = stage.start().await;
    assert_eq!(send(&second).await.minted_at(), certified);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_ahead_mints_in_minutes_to_come_and_binds_nobody_to_them() {
    let stage = off_by(&Stage::new(), 0);
    let ahead = off_by(&stage, TEN_MINUTES).start().await;
    let id = send(&ahead).await;
    let_pass(&stage, MINUTE_MS).await;
    assert_eq!(promised(&ahead).await, stage.clock.now(), "no more than the database's clock says");
    assert!(minute_of(id.minted_at()) > stage.clock.now(), "its minute is still to come, so nobody certifies it");
    let right = stage.start().await;
    assert_eq!(send(&right).await.minted_at(), stage.clock.now());
    let_pass(&stage, 11 * MINUTE_MS).await;
    let minute = minute_of(id.minted_at());
    let stored = right.upstream.sums(Window { since: minute, until: minute.plus_millis(MINUTE_MS) }).await.unwrap();
    assert!(stored.settled_until >= minute.plus_millis(MINUTE_MS), "now it is over: {stored:?}");
    let counts: Vec<u64> = stored.sums.values().map(|minutes| minutes[&minute].count()).collect();
    assert_eq!(counts, [1]);
}
