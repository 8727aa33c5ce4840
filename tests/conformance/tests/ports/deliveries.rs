//! Deliveries: in memory, in a `SQLite` file, in `PostgreSQL`; and a random walk over both kinds at once.

use countersign_launcher::Ground;
use countersign_store::{Database, SqlDeliveries};
use countersign_testkit::clock::ManualClock;
use countersign_testkit::conformance::RealTime;
use countersign_testkit::conformance::deliveries::OVERDUE_MS;
use countersign_testkit::conformance::walk::both_end_alike;
use countersign_testkit::deliveries::MemoryDeliveries;
use countersign_testkit::{deliveries_suite, forgetting_suite};
use tempfile::TempDir;

/// Seeds of the walks, the first of them; each is a walk of its own over fresh rows.
const FIRST_SEED: u64 = 20_260_901;
const STEPS: u32 = 250;

async fn open(url: &str) -> SqlDeliveries {
    let database = Database::connect(url).await.unwrap();
    database.migrate_deliveries().await.unwrap();
    database.deliveries(OVERDUE_MS)
}

async fn in_a_file() -> (SqlDeliveries, TempDir) {
    let dir = TempDir::new().unwrap();
    (open(&format!("sqlite:{}", dir.path().join("msg.db").display())).await, dir)
}

mod memory {
    use super::*;

    async fn set_up(_: &str) -> (MemoryDeliveries, ManualClock, ()) {
        let clock = ManualClock::default();
        (MemoryDeliveries::new(&clock, OVERDUE_MS), clock, ())
    }

    deliveries_suite!(set_up);
    forgetting_suite!(set_up);

    mod events {
        use super::set_up;

        countersign_testkit::events_suite!(set_up);
    }
}

mod sqlite {
    use super::*;

    async fn set_up(_: &str) -> (SqlDeliveries, RealTime, TempDir) {
        let (deliveries, dir) = in_a_file().await;
        (deliveries, RealTime, dir)
    }

    deliveries_suite!(set_up);
    forgetting_suite!(set_up);

    mod events {
        use super::set_up;

        countersign_testkit::events_suite!(set_up);
    }
}

mod postgres {
    use super::*;

    async fn set_up(test: &str) -> (SqlDeliveries, RealTime, Ground) {
        let ground = Ground::new(test).await.unwrap();
        (open(&ground.database("msg").await.unwrap()).await, RealTime, ground)
    }

    deliveries_suite!(set_up);
    forgetting_suite!(set_up);

    mod events {
        use super::set_up;

        countersign_testkit::events_suite!(set_up);
    }
}

#[tokio::test]
async fn a_walk_in_memory_and_in_sqlite_ends_alike() {
    for seed in FIRST_SEED..FIRST_SEED + 8 {
        let memory = MemoryDeliveries::new(&ManualClock::default(), OVERDUE_MS);
        let (sql, _dir) = in_a_file().await;
        both_end_alike(&memory, &sql, seed, STEPS).await;
    }
}

#[tokio::test]
async fn a_walk_in_memory_and_in_postgres_ends_alike() {
    let ground = Ground::new("walk").await.unwrap();
    for seed in FIRST_SEED..FIRST_SEED + 4 {
        let memory = MemoryDeliveries::new(&ManualClock::default(), OVERDUE_MS);
        let sql = open(&ground.database(&format!("msg{seed}")).await.unwrap()).await;
        both_end_alike(&memory, &sql, seed, STEPS).await;
    }
}
