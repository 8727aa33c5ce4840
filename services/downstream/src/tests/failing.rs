//! When the handler fails.

use std::time::Duration;

use countersign_delivery::FailReason;
use countersign_delivery::ports::broker::{HeaderValue, Publication};
use countersign_delivery::ports::claims::{Claimed, Claims as _};
use countersign_testkit::build::{a_message, a_message_with};
use countersign_wire::names;
use countersign_wire::publication::Publish;

use super::world::{Behaviour, DEAD, Given, QUEUE, RECEIPTS, World, claim};
use crate::handler::Failure;

fn order_of(published: &[Publication]) -> Vec<&str> {
    published.iter().map(|publication| publication.routing_key.as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_failed_message_goes_through_every_tier_and_is_then_dead() {
    let world = World::new();
    world.told(Behaviour::Fail(Failure::retry("no stock yet")));
    world.arrives(&a_message(), Publish::FIRST).await;
    world.start();
    for (calls, delay) in [(1, 100), (2, 1_000)] {
        world.settled().await;
        assert_eq!(world.calls(), calls);
        let copy = world.broker.ready(&format!("inventory.retry.{delay}"));
        assert_eq!(copy[0].properties.headers[names::RETRY], HeaderValue::Int(calls.try_into().unwrap()));
        world.clock.advance(delay);
        world.until("it came back", |world| world.calls() > calls).await;
    }
    world.settled().await;
    assert_eq!(
        (world.calls(), world.words()),
        (3, ["retrying 100", "retrying 1000", "retries_exhausted"].map(str::to_owned).to_vec())
    );
    assert_eq!(world.dead_reason(), Some(FailReason::RetriesExhausted));
    let published = world.broker.published();
    let expected = [QUEUE, "inventory.retry.100", RECEIPTS, "inventory.retry.1000", RECEIPTS, DEAD, RECEIPTS];
    assert_eq!(order_of(&published), expected, "the copy is confirmed before its receipt");
    let claimed = world.claims.claim(&[claim(&a_message(), "later")], 1).await.unwrap();
    assert_eq!(claimed, [Claimed::Fresh { starts: 4 }], "the claim was given back");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_succeeds_on_its_second_try_is_done() {
    let world = World::new();
    world.told(Behaviour::Fail(Failure::retry("busy")));
    world.arrives(&a_message(), Publish::FIRST).await;
    world.start();
    world.settled().await;
    world.told(Behaviour::Do);
    world.clock.advance(100);
    world.until("it is done", |world| world.words() == ["retrying 100", "done"]).await;
    assert_eq!(world.handler.calls.lock().unwrap()[1].crashes, 0, "a failure is no crash");
}

#[tokio::test(start_paused = true)]
async fn a_rejected_message_is_dead_at_once() {
    let world = World::new();
    world.told(Behaviour::Fail(Failure::reject("unknown product")));
    world.arrives(&a_message(), Publish::FIRST).await;
    world.start();
    world.settled().await;
    assert_eq!((world.calls(), world.words()), (1, vec!["rejected".to_owned()]));
    assert_eq!(world.dead_reason(), Some(FailReason::Rejected));
    let dead = &world.broker.ready(DEAD)[0];
    assert_eq!(dead.properties.headers[names::DEAD_DETAIL].as_text(), Some("unknown product"));
    assert_eq!(order_of(&world.broker.published()), [QUEUE, DEAD, RECEIPTS]);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_or_does_not_answer_is_tried_again() {
    for behaviour in [Behaviour::Panic, Behaviour::Wait] {
        let world = World::new();
        world.told(behaviour);
        world.arrives(&a_message(), Publish::FIRST).await;
        world.start();
        world.settled().await;
        assert_eq!((world.calls(), world.words()), (1, vec!["retrying 100".to_owned()]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_not_confirmed_is_published_again_before_anything_is_signed() {
    let world = World::new();
    world.told(Behaviour::Fail(Failure::retry("busy")));
    world.arrives(&a_message(), Publish::FIRST).await;
    world.broker.nack_next(2);
    world.start();
    world.settled().await;
    let tier = "inventory.retry.100";
    assert_eq!(order_of(&world.broker.published()), [QUEUE, tier, tier, tier, RECEIPTS]);
}

/// The one that is tried after the pause is a suspect, and waits until nothing else runs.
#[tokio::test(start_paused = true)]
async fn a_suspect_on_trial_is_handled_although_others_wait_for_its_end() {
    let world = World::given(Given { breaker_failures: 1, concurrency: 2, ..Given::default() });
    world.told(Behaviour::Fail(Failure::retry("down")));
    world.arrives(&a_message_with(1, "{}"), Publish::FIRST).await;
    world.start();
    world.until("the breaker is open", |world| world.calls() == 1).await;
    world.told(Behaviour::Do);
    world.somebody_dies_with(&a_message_with(2, "{}"), "dead").await;
    for n in 2..=4 {
        world.arrives(&a_message_with(n, "{}"), Publish::FIRST).await;
    }
    world.settled().await;
    assert_eq!(world.calls(), 4, "all are handled");
}

#[tokio::test(start_paused = true)]
async fn while_a_handler_fails_again_and_again_its_messages_wait_and_spend_no_tries() {
    let world = World::given(Given { breaker_failures: 5, concurrency: 1, ..Given::default() });
    world.told(Behaviour::Fail(Failure::retry("connection refused")));
    for n in 1..=30 {
        world.arrives(&a_message_with(n, "{}"), Publish::FIRST).await;
    }
    world.start();
    world.until("the breaker opens", |world| world.calls() == 5).await;
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(world.calls(), 5);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(world.calls(), 6, "one is tried");
    world.told(Behaviour::Do);
    world.settled().await;
    assert_eq!(world.words().iter().filter(|word| *word == "done").count(), 24);
}

#[tokio::test(start_paused = true)]
async fn what_fails_while_the_breaker_is_open_comes_again_with_as_many_retries_as_before() {
    let world = World::given(Given { breaker_failures: 2, concurrency: 1, ..Given::default() });
    world.told(Behaviour::Fail(Failure::retry("connection refused")));
    for n in 1..=3 {
        world.arrives(&a_message_with(n, "{}"), Publish::FIRST).await;
    }
    world.start();
    world.until("the breaker has opened and a trial has failed", |world| world.words().len() == 3).await;
    let retries: Vec<HeaderValue> =
        world.broker.ready("inventory.retry.100").into_iter().map(|copy| copy.properties.headers[names::RETRY].clone()).collect();
    assert_eq!(retries, [1, 0, 0].map(HeaderValue::Int), "only the failure before it opened is the message's own");
    // An outage of many more trials than there are tiers.
    while world.calls() < 12 {
        world.clock.advance(100);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(world.broker.depth(DEAD), 0);
    world.told(Behaviour::Do);
    while world.words().iter().filter(|word| *word == "done").count() < 3 {
        world.clock.advance(100);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(world.broker.depth(DEAD), 0);
}

#[tokio::test(start_paused = true)]
async fn rejections_do_not_open_the_breaker() {
    let world = World::given(Given { breaker_failures: 2, ..Given::default() });
    world.told(Behaviour::Fail(Failure::reject("unknown product")));
    for n in 1..=20 {
        world.arrives(&a_message_with(n, "{}"), Publish::FIRST).await;
    }
    world.start();
    tokio::time::timeout(Duration::from_millis(500), world.settled()).await.expect("nothing waits");
    assert_eq!((world.calls(), world.broker.depth(DEAD)), (20, 20));
}
