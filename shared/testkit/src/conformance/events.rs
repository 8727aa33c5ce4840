//! What [`Events`] promise, together with the [`Deliveries`] whose transitions they tell of.

use countersign_delivery::ports::deliveries::{Change, Deliveries, DeliveryKey};
use countersign_delivery::ports::events::{Events, Recorded, What};
use countersign_delivery::state::{Event, ParkReason, ResendReason};
use countersign_delivery::{Attempt, Outcome, Receipt};

use super::Waiting;
use crate::build::{a_message_with, a_receipt_of, facts_of, message_id, subscription};

/// Makes one test of each promise; `$setup` as for [`deliveries_suite!`](crate::deliveries_suite), for what fills both ports.
#[macro_export]
macro_rules! events_suite {
    ($setup:path) => {
        $crate::events_suite!($setup =>
            what_did_not_go_the_straight_way_is_told_in_order,
            what_went_straight_is_not_told,
            what_is_taken_is_nobody_elses_until_its_lease_ends,
            what_was_published_is_gone_and_the_rest_comes_again_under_the_same_id,
            of_many_takers_each_event_has_one,
            only_the_oldest_are_dropped,
        );
    };
    ($setup:path => $($promise:ident),* $(,)?) => {
        $(#[tokio::test]
        async fn $promise() {
            let (store, time, _kept) = $setup(stringify!($promise)).await;
            $crate::conformance::events::$promise(&store, &time).await;
        })*
    };
}

const LONG_MS: u64 = 600_000;
const SHORT_MS: u64 = 200;

fn key(n: u64) -> DeliveryKey {
    DeliveryKey { message_id: message_id(n), subscription: subscription("inventory") }
}

fn done(n: u64) -> Receipt {
    a_receipt_of(&a_message_with(n, "x"), &subscription("inventory"), Outcome::Done)
}

fn park(n: u64) -> Change<'static> {
    let event = Event::Park { facts: facts_of(&a_message_with(n, "x")), attempt: Attempt::FIRST, reason: ParkReason::Gone };
    Change { key: key(n), event }
}

async fn apply(store: &impl Deliveries, changes: &[Change<'_>]) {
    let answers = store.apply(changes).await.expect("the store is up");
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
}

async fn take(store: &impl Events, lease_ms: u64, limit: u32) -> Vec<Recorded> {
    store.take(lease_ms, limit).await.expect("the store is up")
}

fn numbers(events: &[Recorded]) -> Vec<i64> {
    events.iter().map(|event| event.key.message_id.minted_at().as_millis()).collect()
}

/// As the name says: an order alone is not, its answer is.
pub async fn what_did_not_go_the_straight_way_is_told_in_order(store: &(impl Deliveries + Events), _: &impl Waiting) {
    let second = Attempt::FIRST.resent();
    let order = Event::OrderResend {
        facts: facts_of(&a_message_with(1, "x")),
        attempt: second,
        lease_ms: LONG_MS,
        seen_live_until: None,
        why: ResendReason::Repeated,
    };
    let (first, note) = (done(1), || "ann: \"so\" – ä".to_owned());
    let change = |event| Change { key: key(1), event };
    apply(store, &[change(order)]).await;
    assert_eq!(take(store, LONG_MS, 9).await, []);
    apply(store, &[change(Event::ResendAnswered { attempt: second })]).await;
    apply(store, &[change(Event::ParkByOperator { note: note() }), change(Event::Discard { note: note() })]).await;
    apply(store, &[change(Event::Restore { note: note() }), change(Event::Signed(&first))]).await;
    let told = take(store, LONG_MS, 9).await;
    let words: Vec<_> =
        told.iter().map(|event| (event.happening.what, event.happening.attempt, event.happening.reason.as_str())).collect();
    let expected = [
        (What::Resent, second, ""),
        (What::Parked, second, "ann: \"so\" – ä"),
        (What::Discarded, second, "ann: \"so\" – ä"),
        (What::Restored, second, "ann: \"so\" – ä"),
        (What::Recovered, Attempt::FIRST, ""),
    ];
    assert_eq!(words, expected);
    assert!(told.iter().all(|event| event.key == key(1) && event.happening.upstream.as_str() == "shop"));
    let now = store.now().await.expect("the store is up");
    assert!(told.iter().all(|event| now.millis_since(event.happening.at) < LONG_MS && event.happening.at <= now));
}

/// As the name says; nor is what says nothing new.
pub async fn what_went_straight_is_not_told(store: &(impl Deliveries + Events), _: &impl Waiting) {
    let receipt = done(1);
    let signed = || Change { key: key(1), event: Event::Signed(&receipt) };
    apply(store, &[signed()]).await;
    apply(store, &[signed(), signed()]).await;
    assert_eq!(take(store, LONG_MS, 9).await, []);
}

/// As the name says.
pub async fn what_is_taken_is_nobody_elses_until_its_lease_ends(store: &(impl Deliveries + Events), time: &impl Waiting) {
    apply(store, &[park(1), park(2), park(3)]).await;
    let first = take(store, SHORT_MS, 2).await;
    assert_eq!(numbers(&take(store, LONG_MS, 9).await).len(), 1);
    assert_eq!(take(store, LONG_MS, 9).await, []);
    time.pass(SHORT_MS + 100).await;
    assert_eq!(take(store, LONG_MS, 9).await, first);
}

/// As the name says.
pub async fn what_was_published_is_gone_and_the_rest_comes_again_under_the_same_id(
    store: &(impl Deliveries + Events),
    time: &impl Waiting,
) {
    apply(store, &[park(1), park(2), park(3)]).await;
    let taken = take(store, SHORT_MS, 9).await;
    assert_eq!(taken.len(), 3);
    store.published(&taken[1..2]).await.expect("the store is up");
    store.published(&taken[1..2]).await.expect("the store is up");
    store.published(&[]).await.expect("the store is up");
    time.pass(SHORT_MS + 100).await;
    let again = take(store, LONG_MS, 9).await;
    let ids = |events: &[Recorded]| events.iter().map(Recorded::id).collect::<Vec<_>>();
    assert_eq!(ids(&again), [taken[0].id(), taken[2].id()]);
}

/// As the name says.
pub async fn of_many_takers_each_event_has_one(store: &(impl Deliveries + Events), _: &impl Waiting) {
    let parks: Vec<_> = (1..=60).map(park).collect();
    apply(store, &parks).await;
    let (a, b, c, d) =
        tokio::join!(take(store, LONG_MS, 20), take(store, LONG_MS, 20), take(store, LONG_MS, 20), take(store, LONG_MS, 20));
    let mut ids: Vec<String> = [a, b, c, d].concat().iter().map(Recorded::id).collect();
    ids.extend(take(store, LONG_MS, 100).await.iter().map(Recorded::id));
    let distinct: std::collections::BTreeSet<&String> = ids.iter().collect();
    assert_eq!((ids.len(), distinct.len()), (60, 60));
}

/// As the name says; how old is told by the numbers.
pub async fn only_the_oldest_are_dropped(store: &(impl Deliveries + Events), _: &impl Waiting) {
    assert_eq!(store.drop_oldest(2).await.expect("the store is up"), 0);
    // Of one parity, so that a store that is split has them in one part.
    apply(store, &[park(2), park(4), park(6), park(8), park(10)]).await;
    assert_eq!(store.drop_oldest(5).await.expect("the store is up"), 0);
    assert_eq!(store.drop_oldest(2).await.expect("the store is up"), 3);
    assert_eq!(numbers(&take(store, LONG_MS, 9).await), [8, 10]);
}
