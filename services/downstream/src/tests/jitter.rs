//! How long what comes again stays in its tier.

use countersign_testkit::build::a_message;
use countersign_testkit::ids::CountingIds;
use countersign_wire::names;
use countersign_wire::publication::Publish;

use countersign_delivery::ports::claims::Claims as _;

use super::world::{Behaviour, Given, World, claim};
use crate::handler::Failure;

/// Ids whose last bits are nearly all set: the largest random share.
fn given() -> Given {
    let ids = CountingIds::after(u64::from(u32::MAX) - 1_000);
    Given { retry_jitter: 0.5, retries: vec![10_000], ids, ..Given::default() }
}

#[tokio::test(start_paused = true)]
async fn a_failed_message_comes_earlier_than_its_tier_says_and_is_announced_by_it() {
    let world = World::given(given());
    world.told(Behaviour::Fail(Failure::retry("no stock yet")));
    world.arrives(&a_message(), Publish::FIRST).await;
    world.start();
    world.settled().await;
    assert_eq!(world.words(), ["retrying 10000"]);
    assert_eq!(world.broker.ready("inventory.retry.10000")[0].properties.expiration_ms, Some(5_001));
    world.clock.advance(5_000);
    assert_eq!((world.calls(), world.broker.depth("inventory.retry.10000")), (1, 1));
    world.clock.advance(1);
    world.until("it came back", |world| world.calls() == 2).await;
    world.settled().await;
    let dead = &world.broker.ready("inventory.dead")[0].properties;
    assert_eq!((dead.expiration_ms, dead.headers[names::RETRY].as_int()), (None, Some(1)));
}

#[tokio::test(start_paused = true)]
async fn what_another_holds_comes_no_earlier_than_its_lease_ends() {
    for (lease_ms, wanted) in [(9_000, Some(9_000)), (3_000, Some(5_001)), (10_000, None), (30_000, None)] {
        let world = World::given(given());
        world.claims.claim(&[claim(&a_message(), "another")], lease_ms).await.unwrap();
        world.arrives(&a_message(), Publish::FIRST).await;
        world.start();
        world.settled().await;
        assert_eq!(world.words(), ["retrying 10000"]);
        let copy = &world.broker.ready("inventory.retry.10000")[0].properties;
        assert_eq!(copy.expiration_ms, wanted, "a lease of {lease_ms} ms");
    }
}
