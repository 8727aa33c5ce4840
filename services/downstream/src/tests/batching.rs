//! How many round trips a drained batch costs.

use std::time::Duration;

use countersign_testkit::build::a_message_with;
use countersign_wire::publication::Publish;

use super::world::{Behaviour, Given, LEASE_MS, World};
use crate::handler::Failure;

/// As many messages as are drained at a time.
const DRAINED: usize = 256;

async fn drained(concurrency: u32) -> World {
    let world = World::given(Given { concurrency, prefetch: 1_000, ..Given::default() });
    for n in 1..=DRAINED {
        world.arrives(&a_message_with(u64::try_from(n).unwrap(), "{}"), Publish::FIRST).await;
    }
    world
}

#[tokio::test(start_paused = true)]
async fn with_as_many_handlers_as_messages_a_batch_costs_one_claim_and_one_complete() {
    let world = drained(256).await;
    world.start();
    world.settled().await;
    assert_eq!(world.calls(), DRAINED);
    assert_eq!(world.counting.calls("claim"), [DRAINED]);
    assert_eq!(world.counting.calls("complete"), [DRAINED]);
    assert_eq!(world.counting.calls("release"), [0; 0]);
}

#[tokio::test(start_paused = true)]
async fn with_fewer_handlers_each_round_of_them_costs_one_claim_and_one_complete() {
    let world = drained(32).await;
    world.start();
    world.settled().await;
    assert_eq!(world.calls(), DRAINED);
    assert_eq!(world.counting.calls("claim"), [32; DRAINED / 32]);
    assert_eq!(world.counting.calls("complete"), [32; DRAINED / 32]);
}

#[tokio::test(start_paused = true)]
async fn only_what_has_a_handler_is_claimed() {
    let world = drained(32).await;
    world.told(Behaviour::Wait);
    world.start();
    world.until("32 are handled", |world| world.calls() == 32).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.counting.calls("claim"), [32]);
}

#[tokio::test(start_paused = true)]
async fn what_fails_together_is_given_back_together() {
    let world = drained(256).await;
    world.told(Behaviour::Fail(Failure::reject("no")));
    world.start();
    world.settled().await;
    assert_eq!((world.counting.calls("claim"), world.counting.calls("release")), (vec![DRAINED], vec![DRAINED]));
}

#[tokio::test(start_paused = true)]
async fn all_leases_are_renewed_in_one_round_trip() {
    let world = World::given(Given { concurrency: 256, prefetch: 1_000, max_batch: 1, ..Given::default() });
    world.told(Behaviour::Wait);
    for n in 1..=DRAINED {
        world.arrives(&a_message_with(u64::try_from(n).unwrap(), "{}"), Publish::FIRST).await;
    }
    world.start();
    world.until("all are handled", |world| world.calls() == DRAINED).await;
    tokio::time::sleep(Duration::from_millis(LEASE_MS - 1_000)).await;
    assert_eq!(world.counting.calls("renew"), [DRAINED; 2]);
}

#[tokio::test(start_paused = true)]
async fn a_lone_message_does_not_wait_for_others() {
    let world = World::new();
    world.start();
    world.arrives(&a_message_with(1, "{}"), Publish::FIRST).await;
    let before = tokio::time::Instant::now();
    world.until("it is handled", |world| world.calls() == 1).await;
    // One call, and how often is looked.
    assert!(before.elapsed() <= Duration::from_millis(3), "{:?}", before.elapsed());
}
