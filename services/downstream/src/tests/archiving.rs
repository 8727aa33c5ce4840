//! Guard `redis+archive`, with both records in memory.

use std::sync::Arc;
use std::time::Duration;

use countersign_boot::Health;
use countersign_delivery::ports::archive::Archive as _;
use countersign_delivery::ports::claims::{Claimed, Claims as _};
use countersign_delivery::topology::Guard;
use countersign_delivery::{Attempt, FailReason, Fingerprint};
use countersign_testkit::archive::MemoryArchive;
use countersign_testkit::build::{a_message, a_message_with};
use countersign_testkit::clock::ManualClock;
use countersign_wire::publication::Publish;

use super::world::{Behaviour, Given, QUEUE, RETENTION_MS, World, claim};
use crate::gate::Gate;
use crate::guard::archived::Archived;
use crate::guard::watched::Watched;
use crate::receive::Rules;

const AGAIN: Publish = Publish { attempt: Attempt::FIRST, effect_epoch: 0, again: true };

struct Behind {
    archive: MemoryArchive,
    gate: Gate,
    health: Health,
}

/// A world whose claims have an archive behind.
fn archived() -> (World, Behind) {
    let (archive, health) = (MemoryArchive::new(&ManualClock::default()), Health::default());
    let gate = Gate::new("database", health.dependency("database"));
    gate.open();
    let watched = Watched::new(archive.clone(), gate.clone());
    let given = Given::default();
    let world = World::given(Given {
        rules: Rules { guard: Guard::RedisArchive, ..given.rules },
        record: Box::new(|claims| Arc::new(Archived::new(claims, watched, RETENTION_MS))),
        database: Some(gate.clone()),
        ..given
    });
    (world, Behind { archive, gate, health })
}

impl Behind {
    async fn knows(&self, number: u64) -> bool {
        let key = claim(&a_message_with(number, "{}"), "").key;
        self.archive.find(&[key]).await.unwrap()[0].is_some()
    }
}

#[tokio::test(start_paused = true)]
async fn what_redis_has_forgotten_is_found_in_the_archive_and_marked_again() {
    let (world, behind) = archived();
    world.start();
    world.arrives(&a_message_with(1, "{}"), Publish::FIRST).await;
    world.settled().await;
    assert!(behind.knows(1).await, "it is written before it is signed for");
    world.claims.forget_everything();
    world.arrives(&a_message_with(1, "{}"), AGAIN).await;
    world.arrives(&a_message_with(2, "{}"), AGAIN).await;
    world.settled().await;
    assert_eq!((world.calls(), world.words()), (2, vec!["done".to_owned(); 3]), "the other one was never done");
    let claimed = world.claims.claim(&[claim(&a_message_with(1, "{}"), "look")], 1).await.unwrap();
    assert_eq!(claimed, [Claimed::Done]);
}

#[tokio::test(start_paused = true)]
async fn what_only_redis_knows_is_written_when_it_comes_again() {
    let (world, behind) = archived();
    world.claims.complete(&[claim(&a_message_with(1, "{}"), "before")], RETENTION_MS).await.unwrap();
    assert!(!behind.knows(1).await);
    world.arrives(&a_message_with(1, "{}"), AGAIN).await;
    world.start();
    world.settled().await;
    assert_eq!((world.calls(), world.words()), (0, vec!["done".to_owned()]));
    assert!(behind.knows(1).await);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_dies_after_the_archive_was_written_costs_no_second_effect() {
    let (world, behind) = archived();
    world.somebody_dies_with(&a_message(), "dead").await;
    behind.archive.record(&[claim(&a_message(), "dead").key]).await.unwrap();
    world.arrives(&a_message(), AGAIN).await;
    world.start();
    world.settled().await;
    assert_eq!((world.calls(), world.words()), (0, vec!["done".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn while_the_archive_is_away_nothing_is_handled_and_redis_is_not_blamed() {
    let (world, behind) = archived();
    behind.archive.go_down();
    world.arrives(&a_message(), AGAIN).await;
    world.start();
    world.until("readiness says so", |_| !behind.health.readiness().dependencies["database"].ready).await;
    world.until("it went back", |world| (world.broker.depth(QUEUE), world.broker.unsettled(QUEUE)) == (1, 0)).await;
    assert_eq!(world.calls(), 0);
    assert!(world.context.health.readiness().dependencies["redis"].ready);
    behind.archive.come_up();
    behind.gate.open();
    world.settled().await;
    assert_eq!(world.words(), ["done"]);
    assert_eq!(world.handler.calls.lock().unwrap()[0].crashes, 0, "its claim had been given back");
}

#[tokio::test(start_paused = true)]
async fn what_is_handled_while_the_archive_goes_away_is_signed_only_when_it_is_written() {
    let (world, behind) = archived();
    world.told(Behaviour::Wait).arrives(&a_message_with(1, "{}"), Publish::FIRST).await;
    world.start();
    world.until("it is handled", |world| world.calls() == 1).await;
    behind.archive.go_down();
    world.handler.go_on.notify_one();
    world.until("the consumer is cancelled", |world| world.broker.depth(QUEUE) == 1).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.words(), [""; 0]);
    behind.archive.come_up();
    behind.gate.open();
    world.settled().await;
    assert_eq!((world.calls(), world.words()), (1, vec!["done".to_owned(); 2]), "once for each delivery");
    assert!(behind.knows(1).await);
}

#[tokio::test(start_paused = true)]
async fn an_id_that_only_the_archive_knows_under_another_fingerprint_is_never_handled() {
    let (world, behind) = archived();
    let mut key = claim(&a_message(), "").key;
    key.fingerprint = Fingerprint::from_hex("0102").unwrap();
    behind.archive.record(&[key]).await.unwrap();
    world.arrives(&a_message(), Publish::FIRST).await;
    world.start();
    world.settled().await;
    assert_eq!((world.calls(), world.dead_reason()), (0, Some(FailReason::Conflict)));
    let claimed = world.claims.claim(&[claim(&a_message(), "look")], 1).await.unwrap();
    assert!(matches!(claimed[0], Claimed::Fresh { .. }), "its claim was given back: {claimed:?}");
}
