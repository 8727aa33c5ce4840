//! Deliveries and their events over two databases at once: what is addressed by an id finds its shard, and answers come back in order.

use countersign_delivery::id::shard_of;
use countersign_delivery::ports::deliveries::{Deliveries as _, Filter};
use countersign_store::{Database, SqlDeliveries};
use countersign_testkit::build::message_id;
use countersign_testkit::clock::ManualClock;
use countersign_testkit::conformance::RealTime;
use countersign_testkit::conformance::deliveries::OVERDUE_MS;
use countersign_testkit::conformance::walk::both_end_alike;
use countersign_testkit::deliveries::MemoryDeliveries;
use countersign_testkit::{deliveries_suite, events_suite, forgetting_suite};
use tempfile::TempDir;

async fn open(dir: &TempDir, name: &str) -> Database {
    let url = format!("sqlite:{}", dir.path().join(name).display());
    let database = Database::connect(url.as_str()).await.unwrap();
    database.migrate_deliveries().await.unwrap();
    database
}

async fn set_up(_: &str) -> (SqlDeliveries, RealTime, TempDir) {
    let dir = TempDir::new().unwrap();
    let (first, second) = (open(&dir, "first.db").await, open(&dir, "second.db").await);
    (SqlDeliveries::over(first, [second], OVERDUE_MS), RealTime, dir)
}

deliveries_suite!(set_up);

mod forgetting {
    use super::*;

    forgetting_suite!(set_up);
}

mod events {
    use super::*;

    events_suite!(set_up);
}

/// Without this the suites above might have worked in one of the two.
#[tokio::test]
async fn both_databases_have_their_part_and_no_row_is_in_the_wrong_one() {
    let dir = TempDir::new().unwrap();
    let (first, second) = (open(&dir, "first.db").await, open(&dir, "second.db").await);
    let both = SqlDeliveries::over(first.clone(), [second.clone()], OVERDUE_MS);
    both_end_alike(&MemoryDeliveries::new(&ManualClock::default(), OVERDUE_MS), &both, 20_260_917, 250).await;
    assert_eq!((1..=3).map(|n| shard_of(message_id(n), 2)).collect::<Vec<_>>(), [1, 0, 1]);
    for (number, database) in [(0, first), (1, second)] {
        let rows = database.deliveries(OVERDUE_MS).list(&Filter::default(), 100).await.unwrap();
        assert!(!rows.is_empty(), "shard {number} is empty");
        assert!(rows.iter().all(|(key, _)| shard_of(key.message_id, 2) == number), "{rows:?}");
    }
}
