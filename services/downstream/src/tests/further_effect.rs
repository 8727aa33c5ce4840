//! An operator has allowed a further effect: it is handled again, once, under a key of its own.

use countersign_delivery::{Attempt, FailReason, Message};
use countersign_testkit::build::{a_message, a_message_with};
use countersign_wire::names;
use countersign_wire::publication::Publish;

use super::world::{Behaviour, RETENTION_MS, World};
use crate::handler::Failure;

const SECOND: Publish = Publish { attempt: Attempt { epoch: 1, number: 1 }, effect_epoch: 1, again: true };

/// A world in which the message is done.
async fn done(message: &Message) -> World {
    let world = World::new();
    world.arrives(message, Publish::FIRST).await;
    world.start();
    world.settled().await;
    world
}

#[tokio::test(start_paused = true)]
async fn a_further_effect_happens_once_and_old_copies_have_none() {
    let world = done(&a_message()).await;
    for publish in [SECOND, Publish::AGAIN, SECOND, Publish { attempt: SECOND.attempt, ..Publish::AGAIN }] {
        world.arrives(&a_message(), publish).await;
        world.settled().await;
    }
    let id = a_message().id;
    let keys: Vec<_> =
        world.handler.calls.lock().unwrap().iter().map(|call| (call.idempotency_key.clone(), call.starts)).collect();
    assert_eq!(keys, [(id.to_string(), 1), (format!("{id}/1"), 1)]);
    assert_eq!(world.words(), ["done"; 5]);
    assert_eq!(world.receipts()[1].attempt, SECOND.attempt, "by which callback knows that it was the further one");
}

#[tokio::test(start_paused = true)]
async fn no_age_makes_a_further_effect_stale() {
    let world = done(&a_message()).await;
    world.clock.advance(RETENTION_MS + 1);
    for publish in [Publish::AGAIN, SECOND] {
        world.arrives(&a_message(), publish).await;
        world.settled().await;
    }
    assert_eq!((world.calls(), world.words()), (2, ["done", "stale", "done"].map(str::to_owned).into()));
}

#[tokio::test(start_paused = true)]
async fn another_content_gets_no_further_effect() {
    let world = done(&a_message()).await;
    world.arrives(&a_message_with(1, "something else"), SECOND).await;
    world.settled().await;
    assert_eq!((world.calls(), world.dead_reason()), (1, Some(FailReason::Conflict)));
}

#[tokio::test(start_paused = true)]
async fn a_further_effect_that_fails_goes_on_as_one_through_retries_and_the_dead_letter_queue() {
    let world = done(&a_message()).await;
    world.told(Behaviour::Fail(Failure::retry("busy"))).arrives(&a_message(), SECOND).await;
    for (words, tier_ms) in [(2, 100), (3, 1_000)] {
        world.until("it is put into a tier", |world| world.words().len() == words).await;
        world.clock.advance(tier_ms);
    }
    world.until("it is dead", |world| world.dead_reason().is_some()).await;
    world.settled().await;
    let key = format!("{}/1", a_message().id);
    let keys: Vec<_> = world.handler.calls.lock().unwrap().iter().skip(1).map(|call| call.idempotency_key.clone()).collect();
    assert_eq!(keys, [key.clone(), key.clone(), key]);
    let dead = world.broker.ready("inventory.dead");
    assert_eq!(dead[0].properties.headers[names::EFFECT_EPOCH].as_int(), Some(1));
    assert_eq!(world.dead_reason(), Some(FailReason::RetriesExhausted));
    // What was given back is open to be tried again.
    world.told(Behaviour::Do).arrives(&a_message(), SECOND).await;
    world.settled().await;
    assert_eq!((world.calls(), world.words().last().map(String::as_str)), (5, Some("done")));
}
