//! What [`Reconciliation`] promises, over the rows that [`Deliveries`] writes.

use countersign_delivery::ports::deliveries::{Change, Deliveries, DeliveryKey};
use countersign_delivery::ports::reconciliation::{KnownUpstream, Reconciliation, Signature, Turn};
use countersign_delivery::reconcile::{Certificate, Line, MINUTE_MS, Standing, Window};
use countersign_delivery::state::Event;
use countersign_delivery::{Outcome, Receipt, Timestamp};

use super::Waiting;
use crate::build::{a_message_with, a_receipt_of, message_id, subscription, upstream};

/// A lease or a pause that ends while a test waits, milliseconds.
const SHORT_MS: u64 = 100;
const PAST_SHORT_MS: u64 = 150;
/// One that does not.
const LONG_MS: u64 = 600_000;

/// Makes one test of each promise. `$setup` is an async function from the test's name to
/// `(impl Deliveries, impl Reconciliation, impl Waiting, _)`, both ports over the same tables; the last part is kept until the test has ended.
#[macro_export]
macro_rules! reconciliation_suite {
    ($setup:path) => {
        $crate::reconciliation_suite!($setup =>
            a_window_holds_what_was_minted_in_it,
            pages_follow_each_other_without_a_gap,
            an_upstream_is_known_once,
            of_many_replicas_one_has_the_turn,
            a_turn_comes_again_after_its_pause,
            a_turn_that_is_renewed_does_not_end,
            a_turn_whose_lease_has_ended_is_another_ones,
            the_last_certificate_is_read_back,
        );
    };
    ($setup:path => $($promise:ident),* $(,)?) => {
        $(#[tokio::test]
        async fn $promise() {
            let (deliveries, reconciliation, time, _kept) = $setup(stringify!($promise)).await;
            $crate::conformance::reconciliation::$promise(&deliveries, &reconciliation, &time).await;
        })*
    };
}

/// A receipt for the message that was minted at this millisecond.
fn receipt(minted: u64, outcome: Outcome) -> Receipt {
    a_receipt_of(&a_message_with(minted, "{}"), &subscription("inventory"), outcome)
}

fn minutes(since: u64, until: u64) -> Window {
    let at = |minute: u64| Timestamp::default().plus_millis(minute * MINUTE_MS);
    Window { since: at(since), until: at(until) }
}

async fn sign(deliveries: &impl Deliveries, receipts: &[Receipt]) {
    let of = |receipt| Change { key: key_of(receipt), event: Event::Signed(receipt) };
    let changes: Vec<_> = receipts.iter().map(of).collect();
    deliveries.apply(&changes).await.unwrap();
}

fn key_of(receipt: &Receipt) -> DeliveryKey {
    DeliveryKey { message_id: receipt.message_id, subscription: receipt.subscription.clone() }
}

fn signature(receipt: &Receipt) -> Signature {
    Signature {
        key: key_of(receipt),
        upstream: receipt.upstream.clone(),
        fingerprint: receipt.fingerprint.clone(),
        done: matches!(receipt.outcome, Outcome::Done),
    }
}

/// Both ends to the millisecond; every state, and who sent it.
pub async fn a_window_holds_what_was_minted_in_it(
    deliveries: &impl Deliveries,
    reconciliation: &impl Reconciliation,
    _time: &impl Waiting,
) {
    let outside = [receipt(MINUTE_MS - 1, Outcome::Done), receipt(2 * MINUTE_MS, Outcome::Done)];
    let mut inside = [receipt(MINUTE_MS, Outcome::Done), receipt(2 * MINUTE_MS - 1, Outcome::Processing { lease_ms: LONG_MS })];
    inside[1].upstream = upstream("other");
    sign(deliveries, &outside).await;
    sign(deliveries, &inside).await;
    let found = reconciliation.signatures(minutes(1, 2), None, 10).await.unwrap();
    assert_eq!(found, inside.each_ref().map(signature));
    assert_eq!(reconciliation.signatures(minutes(5, 6), None, 10).await.unwrap(), []);
}

/// Subscriptions of one message included.
pub async fn pages_follow_each_other_without_a_gap(
    deliveries: &impl Deliveries,
    reconciliation: &impl Reconciliation,
    _time: &impl Waiting,
) {
    let mut receipts: Vec<Receipt> = (0..7).map(|n| receipt(MINUTE_MS + n, Outcome::Done)).collect();
    for n in 0..7 {
        let message = a_message_with(MINUTE_MS + n, "{}");
        receipts.push(a_receipt_of(&message, &subscription("audit"), Outcome::Done));
    }
    sign(deliveries, &receipts).await;
    let mut found: Vec<Signature> = Vec::new();
    loop {
        let after = found.last().map(|last| last.key.clone());
        let page = reconciliation.signatures(minutes(1, 2), after.as_ref(), 3).await.unwrap();
        assert!(page.len() <= 3, "{page:?}");
        if page.is_empty() {
            break;
        }
        found.extend(page);
    }
    receipts.sort_by_key(key_of);
    assert_eq!(found, receipts.iter().map(signature).collect::<Vec<_>>());
}

/// However often it is noted, and in the order of names.
pub async fn an_upstream_is_known_once(
    _deliveries: &impl Deliveries,
    reconciliation: &impl Reconciliation,
    _time: &impl Waiting,
) {
    let names = ["shop", "billing", "shop"].map(upstream);
    reconciliation.note_upstreams(&names).await.unwrap();
    reconciliation.note_upstreams(&names[..1]).await.unwrap();
    reconciliation.note_upstreams(&[]).await.unwrap();
    let fresh = |name: &str| KnownUpstream { upstream: upstream(name), certified_until: None, certificate: None };
    assert_eq!(reconciliation.known_upstreams().await.unwrap(), [fresh("billing"), fresh("shop")]);
}

/// And nobody has the turn of an upstream that is not known.
pub async fn of_many_replicas_one_has_the_turn(
    _deliveries: &impl Deliveries,
    reconciliation: &impl Reconciliation,
    _time: &impl Waiting,
) {
    let shop = upstream("shop");
    assert_eq!(reconciliation.take_turn(&shop, LONG_MS).await.unwrap(), None);
    reconciliation.note_upstreams(std::slice::from_ref(&shop)).await.unwrap();
    let take = || reconciliation.take_turn(&shop, LONG_MS);
    let (a, b, c) = tokio::join!(take(), take(), take());
    let turns: Vec<Turn> = [a, b, c].into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(turns.len(), 1, "{turns:?}");
    reconciliation.note_upstreams(std::slice::from_ref(&shop)).await.unwrap();
    assert_eq!(take().await.unwrap(), None, "noting it again ends no lease");
}

/// With what the last one certified.
pub async fn a_turn_comes_again_after_its_pause(
    _deliveries: &impl Deliveries,
    reconciliation: &impl Reconciliation,
    time: &impl Waiting,
) {
    let (shop, until) = (upstream("shop"), Some(minutes(0, 9).until));
    reconciliation.note_upstreams(std::slice::from_ref(&shop)).await.unwrap();
    let turn = reconciliation.take_turn(&shop, LONG_MS).await.unwrap().unwrap();
    assert_eq!(turn.certified_until, None);
    assert!(reconciliation.end_turn(&turn, until, SHORT_MS).await.unwrap());
    assert!(!reconciliation.end_turn(&turn, None, 0).await.unwrap(), "it has ended");
    time.pass(PAST_SHORT_MS).await;
    let turn = reconciliation.take_turn(&shop, LONG_MS).await.unwrap().unwrap();
    assert_eq!(turn.certified_until, until);
}

/// And its older form is worth nothing any more.
pub async fn a_turn_that_is_renewed_does_not_end(
    _deliveries: &impl Deliveries,
    reconciliation: &impl Reconciliation,
    time: &impl Waiting,
) {
    let shop = upstream("shop");
    reconciliation.note_upstreams(std::slice::from_ref(&shop)).await.unwrap();
    let turn = reconciliation.take_turn(&shop, SHORT_MS).await.unwrap().unwrap();
    let renewed = reconciliation.renew_turn(&turn, LONG_MS).await.unwrap().unwrap();
    assert!(renewed.lease_until > turn.lease_until);
    time.pass(PAST_SHORT_MS).await;
    assert_eq!(reconciliation.take_turn(&shop, LONG_MS).await.unwrap(), None);
    assert_eq!(reconciliation.renew_turn(&turn, LONG_MS).await.unwrap(), None);
    assert!(reconciliation.end_turn(&renewed, None, LONG_MS).await.unwrap());
}

/// Who was too slow changes nothing.
pub async fn a_turn_whose_lease_has_ended_is_another_ones(
    _deliveries: &impl Deliveries,
    reconciliation: &impl Reconciliation,
    time: &impl Waiting,
) {
    let shop = upstream("shop");
    reconciliation.note_upstreams(std::slice::from_ref(&shop)).await.unwrap();
    let slow = reconciliation.take_turn(&shop, SHORT_MS).await.unwrap().unwrap();
    time.pass(PAST_SHORT_MS).await;
    let quick = reconciliation.take_turn(&shop, LONG_MS).await.unwrap().unwrap();
    assert!(!reconciliation.end_turn(&slow, Some(minutes(0, 9).until), 0).await.unwrap());
    assert!(reconciliation.end_turn(&quick, Some(minutes(0, 7).until), LONG_MS).await.unwrap());
    let known = reconciliation.known_upstreams().await.unwrap();
    assert_eq!(known[0].certified_until, Some(minutes(0, 7).until));
}

/// Whole, and only the last; it notes its upstream, and makes no turn of anybody's end.
pub async fn the_last_certificate_is_read_back(
    _deliveries: &impl Deliveries,
    reconciliation: &impl Reconciliation,
    _time: &impl Waiting,
) {
    let (shop, window) = (upstream("shop"), minutes(3, 5));
    let mut line = Line::new(subscription("inventory"));
    line.agree(7);
    line.count(window.since, message_id(3 * MINUTE_MS), Standing::Missing);
    let certificate = Certificate::of("shop".into(), window, window, vec![line], &["cut \"short\"".into()]);
    let earlier = Certificate::unreachable("shop".into(), window, "away".into());
    reconciliation.keep_certificate(&shop, &earlier).await.unwrap();
    let turn = reconciliation.take_turn(&shop, LONG_MS).await.unwrap().unwrap();
    reconciliation.keep_certificate(&shop, &certificate).await.unwrap();
    let known = KnownUpstream { upstream: shop, certified_until: None, certificate: Some(certificate) };
    assert_eq!(reconciliation.known_upstreams().await.unwrap(), [known]);
    assert!(reconciliation.end_turn(&turn, None, 0).await.unwrap());
}
