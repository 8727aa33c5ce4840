use std::sync::Arc;

use countersign_delivery::ports::claims::ClaimKey;
use countersign_testkit::archive::MemoryArchive;
use countersign_testkit::build::{NOW, a_message_with, subscription};
use countersign_testkit::clock::ManualClock;
use countersign_testkit::ids::CountingIds;

use super::*;

const DAY_MS: u64 = 24 * 3_600_000;

#[tokio::test(start_paused = true)]
async fn what_is_old_is_forgotten_batch_after_batch_and_what_is_younger_is_kept() {
    let clock = ManualClock::default();
    let context = Context::detached("downstream", Arc::new(clock.clone()), Arc::new(CountingIds::default()));
    let archive = MemoryArchive::new(&clock);
    let keys = |of: std::ops::Range<u64>| -> Vec<ClaimKey> {
        of.map(|n| {
            let message = a_message_with(n, "{}");
            ClaimKey {
                subscription: subscription("inventory"),
                message_id: message.id,
                fingerprint: message.fingerprint,
                effect_epoch: 0,
            }
        })
        .collect()
    };
    let old = keys(0..2 * u64::from(BATCH_ROWS) + 1);
    archive.record(&old).await.unwrap();
    clock.set(NOW.plus_millis(DAY_MS));
    let young = keys(10_000..10_001);
    archive.record(&young).await.unwrap();
    clock.advance(1);
    start(&context, archive.clone(), vec![subscription("inventory")], DAY_MS);
    // Three batches with their pauses.
    tokio::time::sleep(BATCH_PAUSE * 4).await;
    assert!(archive.find(&old).await.unwrap().iter().all(Option::is_none));
    assert!(archive.find(&young).await.unwrap().iter().all(Option::is_some));
    clock.advance(DAY_MS);
    tokio::time::sleep(LOOK_PAUSE * 2).await;
    assert!(archive.find(&young).await.unwrap().iter().all(Option::is_none), "its time has come, too");
}

#[tokio::test(start_paused = true)]
async fn with_a_retention_of_0_nothing_is_forgotten() {
    let clock = ManualClock::default();
    let context = Context::detached("downstream", Arc::new(clock.clone()), Arc::new(CountingIds::default()));
    start(&context, MemoryArchive::new(&clock), vec![subscription("inventory")], 0);
    assert_eq!(context.tasks.running(), []);
}
