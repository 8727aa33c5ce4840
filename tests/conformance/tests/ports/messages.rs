//! Messages: in memory, in a `SQLite` file, in `PostgreSQL`.

use countersign_launcher::Ground;
use countersign_store::{Database, SqlMessages};
use countersign_testkit::messages::MemoryMessages;
use countersign_testkit::{messages_suite, outbox_suite, retention_suite, stored_suite};
use tempfile::TempDir;

async fn open(url: &str) -> SqlMessages {
    let database = Database::connect(url).await.unwrap();
    database.migrate_messages().await.unwrap();
    database.messages()
}

mod memory {
    use super::*;

    async fn set_up(_: &str) -> (MemoryMessages, ()) {
        (MemoryMessages::default(), ())
    }

    messages_suite!(set_up);
    outbox_suite!(set_up);
    retention_suite!(set_up);
    stored_suite!(set_up);
}

mod sqlite {
    use super::*;

    async fn set_up(_: &str) -> (SqlMessages, TempDir) {
        let dir = TempDir::new().unwrap();
        (open(&format!("sqlite:{}", dir.path().join("upstream.db").display())).await, dir)
    }

    messages_suite!(set_up);
    outbox_suite!(set_up);
    retention_suite!(set_up);
    stored_suite!(set_up);
}

mod postgres {
    use super::*;

    async fn set_up(test: &str) -> (SqlMessages, Ground) {
        let ground = Ground::new(test).await.unwrap();
        (open(&ground.database("shop").await.unwrap()).await, ground)
    }

    messages_suite!(set_up);
    outbox_suite!(set_up);
    retention_suite!(set_up);
    stored_suite!(set_up);
}
