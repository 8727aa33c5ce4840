//! What [`Deliveries`] promise about deleting what is settled. Message `n` is minted `n` milliseconds after the start of time.

use countersign_delivery::ports::deliveries::{Change, Deliveries, DeliveryKey, Filter, state_word};
use countersign_delivery::state::{Event, ParkReason, ResendReason};
use countersign_delivery::{Attempt, Delivery, Outcome, Timestamp};

use super::Waiting;
use crate::build::{a_message_with, a_receipt_of, facts_of, message_id, subscription};

/// Makes one test of each promise; `$setup` as for [`deliveries_suite!`](crate::deliveries_suite).
#[macro_export]
macro_rules! forgetting_suite {
    ($setup:path) => {
        $crate::forgetting_suite!($setup =>
            what_is_settled_and_old_goes_with_its_history_and_the_rest_stays,
            a_walk_meets_each_delivery_once_and_a_page_is_bounded,
            what_was_settled_behind_a_walk_goes_with_the_next,
            what_is_forgotten_only_grows,
            walks_at_the_same_time_delete_each_row_once,
            what_is_signed_anew_while_it_is_deleted_is_there_or_gone,
        );
    };
    ($setup:path => $($promise:ident),* $(,)?) => {
        $(#[tokio::test]
        async fn $promise() {
            let (deliveries, _time, _kept) = $setup(stringify!($promise)).await;
            $crate::conformance::forgetting::$promise(&deliveries, &_time).await;
        })*
    };
}

const LONG_MS: u64 = 600_000;

fn key(n: u64) -> DeliveryKey {
    DeliveryKey { message_id: message_id(n), subscription: subscription("inventory") }
}

/// Messages up to this number are older.
fn after(n: i64) -> Timestamp {
    Timestamp::from_millis(n + 1)
}

async fn sign(deliveries: &impl Deliveries, n: u64, outcome: Outcome) {
    let receipt = a_receipt_of(&a_message_with(n, "x"), &subscription("inventory"), outcome);
    apply(deliveries, n, Event::Signed(&receipt)).await;
}

async fn apply(deliveries: &impl Deliveries, n: u64, event: Event<'_>) {
    deliveries.apply(&[Change { key: key(n), event }]).await.expect("the store is up").remove(0).expect("it applies");
}

fn park(n: u64) -> Event<'static> {
    Event::Park { facts: facts_of(&a_message_with(n, "x")), attempt: Attempt::FIRST, reason: ParkReason::Gone }
}

/// 1 done, 2 done after a resend, 3 discarded; 4 parked, 5 processing, 6 ordered, 7 failed; 8 done.
async fn one_of_each(deliveries: &impl Deliveries) {
    sign(deliveries, 1, Outcome::Done).await;
    let (attempt, why) = (Attempt::FIRST.resent(), ResendReason::Repeated);
    let order = |n| Event::OrderResend {
        facts: facts_of(&a_message_with(n, "x")),
        attempt,
        lease_ms: LONG_MS,
        seen_live_until: None,
        why,
    };
    apply(deliveries, 2, order(2)).await;
    sign(deliveries, 2, Outcome::Done).await;
    apply(deliveries, 3, park(3)).await;
    apply(deliveries, 3, Event::Discard { note: "ann".into() }).await;
    apply(deliveries, 4, park(4)).await;
    sign(deliveries, 5, Outcome::Processing { lease_ms: LONG_MS }).await;
    apply(deliveries, 6, order(6)).await;
    sign(deliveries, 7, Outcome::Failed { reason: countersign_delivery::FailReason::Rejected, detail: String::new() }).await;
    sign(deliveries, 8, Outcome::Done).await;
}

async fn left(deliveries: &impl Deliveries) -> Vec<String> {
    let rows = deliveries.list(&Filter::default(), 1_000).await.expect("the store is up");
    let say = |(key, row): &(DeliveryKey, Delivery)| format!("{} {}", key.message_id.minted_at().as_millis(), state_word(row));
    rows.iter().map(say).collect()
}

/// Walks from the beginning to the end; how many rows went.
async fn walk(deliveries: &impl Deliveries, before: Timestamp, limit: u32) -> u64 {
    let (mut rows, mut at) = (0, None);
    loop {
        let page = deliveries.delete_settled(before, at.as_ref(), limit).await.expect("the store is up");
        rows += page.rows;
        let Some(last) = page.last else { return rows };
        assert!(at.is_none_or(|at| at < last), "a walk goes forward");
        at = Some(last);
    }
}

/// As the name says: neither what is open or parked, nor what is young.
pub async fn what_is_settled_and_old_goes_with_its_history_and_the_rest_stays(deliveries: &impl Deliveries, _: &impl Waiting) {
    one_of_each(deliveries).await;
    assert_eq!(walk(deliveries, Timestamp::from_millis(1), 100).await, 0, "none is older than the first");
    assert_eq!(walk(deliveries, after(7), 100).await, 3);
    assert_eq!(left(deliveries).await, ["4 parked", "5 processing", "6 resending", "7 failed", "8 done"]);
    for gone in [2, 3] {
        assert_eq!(deliveries.history(&key(gone)).await.expect("the store is up"), [], "{gone}");
    }
    for kept in [4, 6] {
        assert_eq!(deliveries.history(&key(kept)).await.expect("the store is up").len(), 1, "{kept}");
    }
    assert_eq!(walk(deliveries, after(7), 100).await, 0);
}

/// As the name says: parked ones fill pages, and are not met again by the same walk.
pub async fn a_walk_meets_each_delivery_once_and_a_page_is_bounded(deliveries: &impl Deliveries, _: &impl Waiting) {
    one_of_each(deliveries).await;
    let first = deliveries.delete_settled(after(7), None, 2).await.expect("the store is up");
    assert_eq!((first.rows, first.last.clone()), (2, Some(key(2))));
    let second = deliveries.delete_settled(after(7), first.last.as_ref(), 2).await.expect("the store is up");
    assert_eq!((second.rows, second.last), (1, Some(key(4))));
    let third = deliveries.delete_settled(after(7), Some(&key(4)), 5).await.expect("the store is up");
    assert_eq!((third.rows, third.last), (0, Some(key(7))));
    let end = deliveries.delete_settled(after(7), Some(&key(7)), 5).await.expect("the store is up");
    assert_eq!((end.rows, end.last), (0, None));
    let later = deliveries.delete_settled(after(8), Some(&key(7)), 5).await.expect("the store is up");
    assert_eq!((later.rows, later.last), (1, Some(key(8))), "what has become old since");
}

/// As the name says.
pub async fn what_was_settled_behind_a_walk_goes_with_the_next(deliveries: &impl Deliveries, _: &impl Waiting) {
    one_of_each(deliveries).await;
    assert_eq!(walk(deliveries, after(8), 3).await, 4);
    sign(deliveries, 5, Outcome::Done).await;
    let behind = deliveries.delete_settled(after(8), Some(&key(8)), 3).await.expect("the store is up");
    assert_eq!((behind.rows, behind.last), (0, None));
    assert_eq!(walk(deliveries, after(8), 3).await, 1);
}

/// As the name says; nothing is forgotten when nothing is deleted.
pub async fn what_is_forgotten_only_grows(deliveries: &impl Deliveries, _: &impl Waiting) {
    let forgotten = async || deliveries.forgotten_before().await.expect("the store is up");
    apply(deliveries, 1, park(1)).await;
    assert_eq!(walk(deliveries, after(1), 100).await, 0);
    assert_eq!(forgotten().await, Timestamp::default());
    sign(deliveries, 2, Outcome::Done).await;
    sign(deliveries, 5, Outcome::Done).await;
    assert_eq!(walk(deliveries, after(5), 100).await, 2);
    assert_eq!(forgotten().await, after(5));
    sign(deliveries, 3, Outcome::Done).await;
    assert_eq!(walk(deliveries, after(3), 100).await, 1);
    assert_eq!(forgotten().await, after(5));
}

/// As the name says, however they overlap.
pub async fn walks_at_the_same_time_delete_each_row_once(deliveries: &impl Deliveries, _: &impl Waiting) {
    for n in 1..=60 {
        sign(deliveries, n, Outcome::Done).await;
    }
    apply(deliveries, 61, park(61)).await;
    let walks = tokio::join!(
        walk(deliveries, after(61), 7),
        walk(deliveries, after(61), 20),
        walk(deliveries, after(61), 100),
        walk(deliveries, after(61), 1)
    );
    let left_over = walk(deliveries, after(61), 100).await;
    assert_eq!(walks.0 + walks.1 + walks.2 + walks.3 + left_over, 60, "{walks:?} and {left_over}");
    assert_eq!(left(deliveries).await, ["61 parked"]);
}

/// As the name says: late receipts meet a walk, and none is refused.
pub async fn what_is_signed_anew_while_it_is_deleted_is_there_or_gone(deliveries: &impl Deliveries, _: &impl Waiting) {
    for n in 1..=40 {
        sign(deliveries, n, Outcome::Done).await;
    }
    let signing = async {
        for n in (1..=40).rev() {
            sign(deliveries, n, Outcome::Done).await;
        }
    };
    let (deleted, ()) = tokio::join!(walk(deliveries, after(40), 3), signing);
    assert!(deleted >= 1, "the walk met nothing");
    let rows = deliveries.list(&Filter::default(), 1_000).await.expect("the store is up");
    assert!(rows.iter().all(|(_, row)| row.is_done()));
    walk(deliveries, after(40), 100).await;
    assert_eq!(left(deliveries).await, Vec::<String>::new());
}
