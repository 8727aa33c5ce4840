//! Reconciliation: in memory, in a `SQLite` file, in `PostgreSQL`.

use countersign_launcher::Ground;
use countersign_store::{Database, SqlDeliveries, SqlReconciliation};
use countersign_testkit::clock::ManualClock;
use countersign_testkit::conformance::RealTime;
use countersign_testkit::conformance::deliveries::OVERDUE_MS;
use countersign_testkit::deliveries::MemoryDeliveries;
use countersign_testkit::reconciliation_suite;
use tempfile::TempDir;

async fn open(url: &str) -> (SqlDeliveries, SqlReconciliation) {
    let database = Database::connect(url).await.unwrap();
    database.migrate_deliveries().await.unwrap();
    (database.deliveries(OVERDUE_MS), database.reconciliation())
}

mod memory {
    use super::*;

    async fn set_up(_: &str) -> (MemoryDeliveries, MemoryDeliveries, ManualClock, ()) {
        let clock = ManualClock::default();
        let deliveries = MemoryDeliveries::new(&clock, OVERDUE_MS);
        (deliveries.clone(), deliveries, clock, ())
    }

    reconciliation_suite!(set_up);
}

mod sqlite {
    use super::*;

    async fn set_up(_: &str) -> (SqlDeliveries, SqlReconciliation, RealTime, TempDir) {
        let dir = TempDir::new().unwrap();
        let (deliveries, reconciliation) = open(&format!("sqlite:{}", dir.path().join("msg.db").display())).await;
        (deliveries, reconciliation, RealTime, dir)
    }

    reconciliation_suite!(set_up);
}

mod postgres {
    use super::*;

    async fn set_up(test: &str) -> (SqlDeliveries, SqlReconciliation, RealTime, Ground) {
        let ground = Ground::new(test).await.unwrap();
        let (deliveries, reconciliation) = open(&ground.database("msg").await.unwrap()).await;
        (deliveries, reconciliation, RealTime, ground)
    }

    reconciliation_suite!(set_up);
}
