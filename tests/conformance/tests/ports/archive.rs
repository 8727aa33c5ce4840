//! The archive: in memory, in a `SQLite` file, in `PostgreSQL`.

use countersign_launcher::Ground;
use countersign_store::{Database, SqlInbox};
use countersign_testkit::archive::MemoryArchive;
use countersign_testkit::archive_suite;
use countersign_testkit::clock::ManualClock;
use countersign_testkit::conformance::RealTime;
use tempfile::TempDir;

/// Downstream's tables in the database at `url`.
pub(crate) async fn open(url: &str) -> SqlInbox {
    let database = Database::connect(url).await.unwrap();
    database.migrate_inbox().await.unwrap();
    database.inbox()
}

/// The same in a file of its own.
pub(crate) async fn in_a_file() -> (SqlInbox, TempDir) {
    let dir = TempDir::new().unwrap();
    (open(&format!("sqlite:{}", dir.path().join("inbox.db").display())).await, dir)
}

mod memory {
    use super::*;

    async fn set_up(_: &str) -> (MemoryArchive, ManualClock, ()) {
        let clock = ManualClock::default();
        (MemoryArchive::new(&clock), clock, ())
    }

    archive_suite!(set_up);
}

mod sqlite {
    use super::*;

    async fn set_up(_: &str) -> (SqlInbox, RealTime, TempDir) {
        let (inbox, dir) = in_a_file().await;
        (inbox, RealTime, dir)
    }

    archive_suite!(set_up);
}

mod postgres {
    use super::*;

    async fn set_up(test: &str) -> (SqlInbox, RealTime, Ground) {
        let ground = Ground::new(test).await.unwrap();
        (open(&ground.database("inbox").await.unwrap()).await, RealTime, ground)
    }

    archive_suite!(set_up);
}
