//! What [`DeadLetters`] promise.

use std::collections::BTreeSet;

use bytes::Bytes;
use countersign_delivery::ports::dead_letters::{Closing, DeadLetters, Filter, Label, Letter, NewLetter, Place, State};
use countersign_delivery::ports::deliveries::{Change, Deliveries, DeliveryKey};
use countersign_delivery::state::Event;
use countersign_delivery::{Fingerprint, Outcome, SubscriptionName, Timestamp};

use super::Waiting;
use crate::build::{a_message_with, a_receipt_of, message_id, subscription};

/// Makes one test of each promise. `$setup` is an async function from the test's name to
/// `(impl DeadLetters, impl Deliveries, impl Waiting, _)` on one database, whose last part is kept until the test is over.
#[macro_export]
macro_rules! dead_letters_suite {
    ($setup:path) => {
        $crate::dead_letters_suite!($setup =>
            a_copy_is_taken_in_once,
            a_letter_comes_back_whole,
            each_criterion_selects_by_itself,
            pages_go_on_after_a_number,
            what_an_operator_did_is_read_back,
            a_letter_is_settled_by_its_own_delivery_only,
            those_that_wait_are_counted_up_to_a_bound,
            only_what_nobody_needs_is_deleted_and_some_at_a_time,
        );
    };
    ($setup:path => $($promise:ident),* $(,)?) => {
        $(#[tokio::test]
        async fn $promise() {
            let (letters, deliveries, time, _kept) = $setup(stringify!($promise)).await;
            $crate::conformance::dead_letters::$promise(&letters, &deliveries, &time).await;
        })*
    };
}

/// Longer than one reading of the database's clock.
const A_MOMENT_MS: u64 = 50;
/// Later than any letter.
const LATE: Timestamp = Timestamp::from_millis(i64::MAX);

/// Letter of message `n`, an order of `shop` that was rejected at `n`.
fn letter(n: u64, of: Option<&str>) -> NewLetter {
    let message = a_message_with(n, "x");
    let body = Bytes::from(format!("body {n}"));
    let millis = i64::try_from(n).unwrap_or(i64::MAX);
    NewLetter {
        identity: Fingerprint::of("letter", of.unwrap_or_default(), &body),
        subscription: of.map(subscription),
        label: Label {
            message_id: message.id.to_string(),
            upstream: "shop".into(),
            kind: "order.created".into(),
            fingerprint: message.fingerprint.to_hex(),
            reason: "rejected".into(),
            died_at: Some(Timestamp::from_millis(millis)),
        },
        packed: format!("{{\"n\":{n}}}"),
        body,
    }
}

fn dead(n: u64) -> NewLetter {
    letter(n, Some("inventory"))
}

async fn take_in(letters: &impl DeadLetters, new: &[NewLetter]) -> u64 {
    letters.take_in(new).await.expect("the store is up")
}

async fn all(letters: &impl DeadLetters, filter: &Filter) -> Vec<Letter> {
    letters.list(filter, 0, 1_000).await.expect("the store is up")
}

async fn packed(letters: &impl DeadLetters, filter: &Filter) -> Vec<String> {
    all(letters, filter).await.into_iter().map(|letter| letter.packed).collect()
}

async fn words(letters: &impl DeadLetters) -> Vec<&'static str> {
    all(letters, &Filter::default()).await.iter().map(|letter| letter.state.as_str()).collect()
}

async fn close(letters: &impl DeadLetters, number: u64, epoch: Option<u32>) {
    let closing = Closing { by: "ann".into(), reason: "mended".into(), epoch };
    letters.close(&[(number, closing)]).await.expect("the store is up");
}

async fn sign(deliveries: &impl Deliveries, n: u64, body: &str, name: &SubscriptionName, outcome: Outcome) {
    let receipt = a_receipt_of(&a_message_with(n, body), name, outcome);
    let key = DeliveryKey { message_id: message_id(n), subscription: name.clone() };
    deliveries.apply(&[Change { key, event: Event::Signed(&receipt) }]).await.expect("the store is up");
}

/// Within a batch, and when the broker delivers it again; what else is in the batch is taken in.
pub async fn a_copy_is_taken_in_once(letters: &impl DeadLetters, _: &impl Deliveries, _: &impl Waiting) {
    assert_eq!(letters.latest().await.expect("the store is up"), 0);
    assert_eq!(take_in(letters, &[dead(1), dead(2), dead(1)]).await, 2);
    assert_eq!(take_in(letters, &[dead(2), dead(3)]).await, 1);
    assert_eq!(take_in(letters, &[]).await, 0);
    assert_eq!(packed(letters, &Filter::default()).await, [dead(1).packed, dead(2).packed, dead(3).packed]);
    // One that was dealt with does not come back.
    let first = all(letters, &Filter::default()).await[0].number;
    close(letters, first, None).await;
    assert_eq!(take_in(letters, &[dead(1)]).await, 0);
    assert_eq!(words(letters).await, ["discarded", "open", "open"]);
}

/// Whatever is in it: words that are no words, an empty body, a large one.
pub async fn a_letter_comes_back_whole(letters: &impl DeadLetters, _: &impl Deliveries, _: &impl Waiting) {
    let odd = NewLetter {
        label: Label {
            message_id: "not a\u{0}uuid".into(),
            fingerprint: "zz".into(),
            reason: "\u{1}".into(),
            ..Label::default()
        },
        packed: "{\"a\":\"\\u0000 – ä 'quoted'\"}".into(),
        body: Bytes::new(),
        ..letter(1, None)
    };
    let large = NewLetter { body: vec![0xfe; 3_000_000].into(), ..dead(2) };
    take_in(letters, &[odd.clone(), large.clone()]).await;
    let found = all(letters, &Filter::default()).await;
    assert_eq!((found[0].subscription.as_ref(), &found[0].packed, found[0].body_bytes), (None, &odd.packed, 0));
    assert_eq!((found[1].subscription.as_ref(), found[1].body_bytes), (large.subscription.as_ref(), 3_000_000));
    assert!(found.iter().all(|letter| letter.state == State::Open && letter.taken_in_at.as_millis() > 0));
    let numbers = [found[1].number, 9_999, found[0].number];
    let bodies = letters.bodies(&numbers).await.expect("the store is up");
    assert_eq!(bodies, [Some(large.body), None, Some(odd.body)]);
    assert_eq!(letters.latest().await.expect("the store is up"), found[1].number);
}

/// And all must hold.
pub async fn each_criterion_selects_by_itself(letters: &impl DeadLetters, _: &impl Deliveries, _: &impl Waiting) {
    let mut other = letter(2, Some("audit"));
    other.label =
        Label { reason: "poison".into(), kind: "order.paid".into(), upstream: "till".into(), died_at: None, ..other.label };
    take_in(letters, &[dead(100), other.clone(), letter(3, None)]).await;
    let (first, second, third) = (dead(100), other, letter(3, None));
    let [one, two, three] = [&first, &second, &third].map(|letter| letter.packed.clone());
    let at = |millis| Some(Timestamp::from_millis(millis));
    let ids = |letters: &[&NewLetter]| letters.iter().map(|letter| letter.label.message_id.clone()).collect();
    let rows = [
        (Filter::default(), vec![&one, &two, &three]),
        (Filter { place: Place::Of(subscription("audit")), ..Filter::default() }, vec![&two]),
        (Filter { place: Place::Of(subscription("billing")), ..Filter::default() }, vec![]),
        (Filter { place: Place::Quarantine, ..Filter::default() }, vec![&three]),
        (Filter { reasons: ["poison", "stale"].into(), ..Filter::default() }, vec![&two]),
        (Filter { kind: "order.created".into(), ..Filter::default() }, vec![&one, &three]),
        (Filter { upstream: "till".into(), ..Filter::default() }, vec![&two]),
        (Filter { message_ids: ids(&[&third, &first]), ..Filter::default() }, vec![&one, &three]),
        (Filter { died_after: at(100), ..Filter::default() }, vec![&one]),
        (Filter { died_before: at(100), ..Filter::default() }, vec![&three]),
        (Filter { died_after: at(1), died_before: at(101), upstream: "till".into(), ..Filter::default() }, vec![]),
        (Filter { states: ["open", "settled"].into(), ..Filter::default() }, vec![&one, &two, &three]),
        (Filter { states: ["settled"].into(), ..Filter::default() }, vec![]),
        (Filter { states: ["redriven", "discarded"].into(), ..Filter::default() }, vec![]),
    ];
    for (filter, expected) in rows {
        assert_eq!(packed(letters, &filter).await.iter().collect::<Vec<_>>(), expected, "{filter:?}");
    }
}

/// Without gap or repetition, and ascending.
pub async fn pages_go_on_after_a_number(letters: &impl DeadLetters, _: &impl Deliveries, _: &impl Waiting) {
    take_in(letters, &(1..=7).map(dead).collect::<Vec<_>>()).await;
    let (mut seen, mut after) = (Vec::new(), 0);
    for size in [3, 3, 1, 0] {
        let page = letters.list(&Filter::default(), after, 3).await.expect("the store is up");
        assert_eq!(page.len(), size);
        after = page.last().map_or(after, |letter| letter.number);
        seen.extend(page.into_iter().map(|letter| letter.packed));
    }
    assert_eq!(seen, (1..=7).map(|n| dead(n).packed).collect::<Vec<_>>());
    assert_eq!(letters.latest().await.expect("the store is up"), after);
}

/// A redriven letter may be redriven again or discarded; a discarded one stays so.
pub async fn what_an_operator_did_is_read_back(letters: &impl DeadLetters, _: &impl Deliveries, _: &impl Waiting) {
    take_in(letters, &[dead(1), dead(2), dead(3)]).await;
    let numbers: Vec<u64> = all(letters, &Filter::default()).await.iter().map(|letter| letter.number).collect();
    close(letters, numbers[0], Some(4)).await;
    close(letters, numbers[1], None).await;
    let found = all(letters, &Filter::default()).await;
    let State::Closed { closing, at } = &found[0].state else { panic!("{:?}", found[0].state) };
    assert_eq!(*closing, Closing { by: "ann".into(), reason: "mended".into(), epoch: Some(4) });
    assert!(*at >= found[0].taken_in_at);
    assert_eq!(words(letters).await, ["redriven", "discarded", "open"]);
    let filter = |word| Filter { states: BTreeSet::from([word]), ..Filter::default() };
    assert_eq!(packed(letters, &filter("redriven")).await, [dead(1).packed]);
    assert_eq!(packed(letters, &filter("open")).await, [dead(3).packed]);
    close(letters, numbers[1], Some(5)).await;
    close(letters, numbers[0], None).await;
    close(letters, 9_999, None).await;
    assert_eq!(words(letters).await, ["discarded", "discarded", "open"]);
}

/// Not by another content's under its id, nor by another subscription's, nor by one that is not done. What was acted on keeps its state.
pub async fn a_letter_is_settled_by_its_own_delivery_only(
    letters: &impl DeadLetters,
    deliveries: &impl Deliveries,
    _: &impl Waiting,
) {
    take_in(letters, &[dead(1), dead(2), dead(3), dead(4), dead(5), letter(6, None)]).await;
    let (inventory, audit) = (subscription("inventory"), subscription("audit"));
    sign(deliveries, 1, "x", &inventory, Outcome::Done).await;
    sign(deliveries, 2, "another", &inventory, Outcome::Done).await;
    sign(deliveries, 3, "x", &audit, Outcome::Done).await;
    sign(deliveries, 4, "x", &inventory, Outcome::Processing { lease_ms: 1 }).await;
    sign(deliveries, 5, "x", &inventory, Outcome::Done).await;
    sign(deliveries, 6, "x", &inventory, Outcome::Done).await;
    let fifth = all(letters, &Filter::default()).await[4].number;
    close(letters, fifth, Some(1)).await;
    assert_eq!(words(letters).await, ["settled", "open", "open", "open", "redriven", "open"]);
    let settled = Filter { states: ["settled"].into(), ..Filter::default() };
    assert_eq!(packed(letters, &settled).await, [dead(1).packed]);
}

/// As the name says.
pub async fn those_that_wait_are_counted_up_to_a_bound(
    letters: &impl DeadLetters,
    deliveries: &impl Deliveries,
    _: &impl Waiting,
) {
    take_in(letters, &(1..=5).map(dead).collect::<Vec<_>>()).await;
    sign(deliveries, 1, "x", &subscription("inventory"), Outcome::Done).await;
    for (most, expected) in [(0, 0), (3, 3), (5, 5), (100, 5)] {
        assert_eq!(letters.waiting(most).await.expect("the store is up"), expected, "{most}");
    }
    let first = all(letters, &Filter::default()).await[1].number;
    close(letters, first, None).await;
    assert_eq!(letters.waiting(100).await.expect("the store is up"), 4);
}

/// Open ones stay however old they are.
pub async fn only_what_nobody_needs_is_deleted_and_some_at_a_time(
    letters: &impl DeadLetters,
    deliveries: &impl Deliveries,
    time: &impl Waiting,
) {
    take_in(letters, &(1..=6).map(dead).collect::<Vec<_>>()).await;
    let numbers: Vec<u64> = all(letters, &Filter::default()).await.iter().map(|letter| letter.number).collect();
    close(letters, numbers[1], Some(1)).await;
    close(letters, numbers[2], None).await;
    sign(deliveries, 4, "x", &subscription("inventory"), Outcome::Done).await;
    let before = message_id(4).minted_at();
    assert_eq!(
        letters.delete_settled(before, 100).await.expect("the store is up"),
        0,
        "nothing was closed, and no message minted, before that"
    );
    time.pass(A_MOMENT_MS).await;
    assert_eq!(letters.delete_settled(LATE, 2).await.expect("the store is up"), 2);
    assert_eq!(letters.delete_settled(LATE, 2).await.expect("the store is up"), 1);
    assert_eq!(letters.delete_settled(LATE, 2).await.expect("the store is up"), 0);
    assert_eq!(packed(letters, &Filter::default()).await, [1, 5, 6].map(|n| dead(n).packed));
}
