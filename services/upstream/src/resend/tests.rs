use countersign_delivery::ports::broker::HeaderValue;
use countersign_testkit::build::{a_subscription, message_id, subscription};
use countersign_wire::names;

use super::*;
use crate::accept::NewMessage;
use crate::send::{Accepted, Outcome as Sent};
use crate::stage::{Process, Stage, an_order, is_again, is_check};

const SECOND: Attempt = Attempt { epoch: 0, number: 2 };

/// A stage with one confirmed message, which both `billing` and `orders` must sign for.
async fn a_sent_message() -> (Stage, Process, Order) {
    let mut stage = Stage::new();
    stage.topology.subscriptions.push(a_subscription("billing", "order.*"));
    let stage = stage.with_topology();
    let process = stage.start().await;
    let outcome = process.upstream.send(NewMessage { ..an_order("1") }).await;
    let Sent::Confirmed(Accepted { id, fingerprint, .. }) = outcome else { panic!("{outcome:?}") };
    let order = Order { id, attempt: SECOND, effect_epoch: 0, subscriptions: vec![subscription("orders")], fingerprint };
    for queue in ["orders", "billing", &stage.topology.check_tier_queue(stage.topology.checks.check_delay_ms)] {
        stage.broker.purge(queue);
    }
    (stage, process, order)
}

#[tokio::test(start_paused = true)]
async fn a_resend_goes_to_the_named_subscription_alone_with_its_own_check() {
    let (stage, process, order) = a_sent_message().await;
    assert_eq!(process.upstream.resend(std::slice::from_ref(&order), None).await, [Outcome::Resent]);
    assert_eq!(stage.broker.depth("billing"), 0);
    let [message] = &stage.broker.ready("orders")[..] else { panic!("one message") };
    assert!(is_again(message));
    let header = |name: &str| message.properties.headers.get(name).cloned();
    assert_eq!(header(names::ATTEMPT), Some(HeaderValue::Int(2)));
    assert_eq!(header(names::ROUTING_KEY), Some(HeaderValue::Text("order.created".into())));
    let [check] = &stage.checks()[..] else { panic!("one check") };
    assert_eq!((check.message_id, check.attempt, &check.required), (order.id, SECOND, &vec![subscription("orders")]));
}

#[tokio::test(start_paused = true)]
async fn a_resend_carries_the_effect_epoch_that_was_ordered_and_none_else() {
    let (stage, process, order) = a_sent_message().await;
    let second = Order { attempt: Attempt { epoch: 2, number: 1 }, effect_epoch: 2, ..order.clone() };
    assert_eq!(process.upstream.resend(&[order, second], None).await, [Outcome::Resent, Outcome::Resent]);
    let carried =
        stage.broker.ready("orders").into_iter().map(|message| message.properties.headers.get(names::EFFECT_EPOCH).cloned());
    assert_eq!(carried.collect::<Vec<_>>(), [None, Some(HeaderValue::Int(2))]);
    let attempts: Vec<_> = stage.checks().iter().map(|check| check.attempt).collect();
    assert_eq!(attempts, [SECOND, Attempt { epoch: 2, number: 1 }]);
}

#[tokio::test(start_paused = true)]
async fn an_order_without_names_is_for_everyone_required() {
    let (stage, process, order) = a_sent_message().await;
    let order = Order { subscriptions: Vec::new(), ..order };
    assert_eq!(process.upstream.resend(&[order], None).await, [Outcome::Resent]);
    assert_eq!((stage.broker.depth("orders"), stage.broker.depth("billing")), (1, 1));
    assert_eq!(stage.checks()[0].required, [subscription("billing"), subscription("orders")]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_resent_is_told_apart_and_harms_no_other_order() {
    let (stage, process, order) = a_sent_message().await;
    let unknown = Order { id: message_id(9_999), ..order.clone() };
    let changed = Order { fingerprint: Fingerprint::of("other", "", b""), ..order.clone() };
    let strange = Order { subscriptions: vec![subscription("stock")], ..order.clone() };
    let outcomes = process.upstream.resend(&[unknown, changed, strange, order], None).await;
    let words: Vec<_> = outcomes.iter().map(Outcome::word).collect();
    assert_eq!(words, ["unknown_id", "changed", "not_confirmed", "resent"]);
    assert_eq!((stage.broker.depth("orders"), stage.broker.depth("stock")), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn one_call_may_order_a_message_for_each_subscription_with_its_own_attempt() {
    let (stage, process, order) = a_sent_message().await;
    let third = Attempt { epoch: 0, number: 3 };
    let other = Order { subscriptions: vec![subscription("billing")], attempt: third, ..order.clone() };
    assert_eq!(process.upstream.resend(&[order, other], None).await, [Outcome::Resent, Outcome::Resent]);
    assert_eq!((stage.broker.depth("orders"), stage.broker.depth("billing")), (1, 1));
    let checks: Vec<_> = stage.checks().into_iter().map(|check| (check.required, check.attempt)).collect();
    assert_eq!(checks, [(vec![subscription("orders")], SECOND), (vec![subscription("billing")], third)]);
}

#[tokio::test(start_paused = true)]
async fn what_the_broker_does_not_confirm_is_not_resent_and_has_no_check() {
    type Mishap = fn(&Stage);
    let mishaps: [Mishap; 4] = [
        |stage| stage.broker.nack_next(1),
        |stage| stage.broker.return_next(1),
        |stage| stage.broker.unknown_next(1, true),
        |stage| stage.broker.go_down(),
    ];
    for mishap in mishaps {
        let (stage, process, order) = a_sent_message().await;
        mishap(&stage);
        let outcomes = process.upstream.resend(&[order], None).await;
        assert!(matches!(&outcomes[..], [Outcome::NotConfirmed(why)] if !why.is_empty()), "{outcomes:?}");
        assert_eq!(stage.checks(), []);
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_that_is_not_confirmed_is_no_resend() {
    let (stage, process, order) = a_sent_message().await;
    let before = stage.broker.published().len();
    stage.refuse_checks(1);
    let outcomes = process.upstream.resend(&[order], None).await;
    assert!(matches!(&outcomes[..], [Outcome::NotConfirmed(_)]), "{outcomes:?}");
    assert_eq!(stage.broker.published()[before..].iter().map(is_check).collect::<Vec<_>>(), [false, true]);
}

#[tokio::test(start_paused = true)]
async fn without_the_database_an_order_is_repeated_later() {
    let (stage, process, order) = a_sent_message().await;
    stage.messages.go_down();
    let outcomes = process.upstream.resend(&[order], None).await;
    assert!(matches!(&outcomes[..], [Outcome::NotConfirmed(_)]), "{outcomes:?}");
}
