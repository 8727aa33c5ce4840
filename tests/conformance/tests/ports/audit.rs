//! The audit: in memory, in a `SQLite` file, in `PostgreSQL`.

use countersign_launcher::Ground;
use countersign_store::{Database, SqlAudit};
use countersign_testkit::audit::MemoryAudit;
use countersign_testkit::audit_suite;
use countersign_testkit::clock::ManualClock;
use countersign_testkit::conformance::RealTime;
use tempfile::TempDir;

async fn open(url: &str) -> SqlAudit {
    let database = Database::connect(url).await.unwrap();
    database.migrate_deliveries().await.unwrap();
    database.audit()
}

mod memory {
    use super::*;

    async fn set_up(_: &str) -> (MemoryAudit, ManualClock, ()) {
        let clock = ManualClock::default();
        (MemoryAudit::new(&clock), clock, ())
    }

    audit_suite!(set_up);
}

mod sqlite {
    use super::*;

    async fn set_up(_: &str) -> (SqlAudit, RealTime, TempDir) {
        let dir = TempDir::new().unwrap();
        (open(&format!("sqlite:{}", dir.path().join("msg.db").display())).await, RealTime, dir)
    }

    audit_suite!(set_up);
}

mod postgres {
    use super::*;

    async fn set_up(test: &str) -> (SqlAudit, RealTime, Ground) {
        let ground = Ground::new(test).await.unwrap();
        (open(&ground.database("msg").await.unwrap()).await, RealTime, ground)
    }

    audit_suite!(set_up);
}
