//! Dead letters: in memory, in a `SQLite` file, in `PostgreSQL`.

use countersign_launcher::Ground;
use countersign_store::{Database, SqlDeadLetters, SqlDeliveries};
use countersign_testkit::clock::ManualClock;
use countersign_testkit::conformance::RealTime;
use countersign_testkit::dead_letters::MemoryDeadLetters;
use countersign_testkit::dead_letters_suite;
use countersign_testkit::deliveries::MemoryDeliveries;
use tempfile::TempDir;

const OVERDUE_MS: u64 = 60_000;

async fn open(url: &str) -> (SqlDeadLetters, SqlDeliveries) {
    let database = Database::connect(url).await.unwrap();
    database.migrate_deliveries().await.unwrap();
    (database.dead_letters(), database.deliveries(OVERDUE_MS))
}

mod memory {
    use super::*;

    async fn set_up(_: &str) -> (MemoryDeadLetters, MemoryDeliveries, ManualClock, ()) {
        let clock = ManualClock::default();
        let deliveries = MemoryDeliveries::new(&clock, OVERDUE_MS);
        (MemoryDeadLetters::new(&clock, &deliveries), deliveries, clock, ())
    }

    dead_letters_suite!(set_up);
}

mod sqlite {
    use super::*;

    async fn set_up(_: &str) -> (SqlDeadLetters, SqlDeliveries, RealTime, TempDir) {
        let dir = TempDir::new().unwrap();
        let (letters, deliveries) = open(&format!("sqlite:{}", dir.path().join("msg.db").display())).await;
        (letters, deliveries, RealTime, dir)
    }

    dead_letters_suite!(set_up);
}

mod postgres {
    use super::*;

    async fn set_up(test: &str) -> (SqlDeadLetters, SqlDeliveries, RealTime, Ground) {
        let ground = Ground::new(test).await.unwrap();
        let (letters, deliveries) = open(&ground.database("msg").await.unwrap()).await;
        (letters, deliveries, RealTime, ground)
    }

    dead_letters_suite!(set_up);
}
