//! Claims without leases: the record of the inbox, in a `SQLite` file and in `PostgreSQL`. What is done is committed by a transaction, as
//! guard `inbox` does.

use async_trait::async_trait;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::claims::{Claim, Claimed, Claims, Held};
use countersign_launcher::Ground;
use countersign_store::{Committed, SqlInbox, Taking, TransactionLimits};
use countersign_testkit::claims_suite;
use countersign_testkit::clock::ManualClock;
use tempfile::TempDir;

use crate::archive::{in_a_file, open};

/// The record, and a handler without an effect.
struct Inbox<G> {
    record: SqlInbox,
    _ground: G,
}

impl<G> Inbox<G> {
    /// No lease runs here, so the time that a test lets pass is nobody's.
    fn new(record: SqlInbox, ground: G) -> (Self, ManualClock) {
        (Self { record, _ground: ground }, ManualClock::default())
    }
}

#[async_trait]
impl<G: Send + Sync> Claims for Inbox<G> {
    async fn claim(&self, claims: &[Claim], lease_ms: u64) -> Result<Vec<Claimed>, PortError> {
        self.record.claim(claims, lease_ms).await
    }

    async fn renew(&self, claims: &[Claim], lease_ms: u64) -> Result<Vec<Held>, PortError> {
        self.record.renew(claims, lease_ms).await
    }

    async fn complete(&self, claims: &[Claim], retention_ms: u64) -> Result<Vec<Held>, PortError> {
        for claim in claims {
            let Taking::Ours(transaction) = self.record.begin(claim, TransactionLimits::default()).await? else {
                panic!("nobody else is here");
            };
            let committed = transaction.commit().await;
            assert!(matches!(committed, Committed::Yes), "{committed:?}");
        }
        self.record.complete(claims, retention_ms).await
    }

    async fn release(&self, claims: &[Claim]) -> Result<Vec<Held>, PortError> {
        self.record.release(claims).await
    }
}

mod sqlite {
    use super::*;

    async fn set_up(_: &str) -> (Inbox<TempDir>, ManualClock) {
        let (record, dir) = in_a_file().await;
        Inbox::new(record, dir)
    }

    claims_suite!(set_up);
}

mod postgres {
    use super::*;

    async fn set_up(test: &str) -> (Inbox<Ground>, ManualClock) {
        let ground = Ground::new(test).await.unwrap();
        let record = open(&ground.database("inbox").await.unwrap()).await;
        Inbox::new(record, ground)
    }

    claims_suite!(set_up);
}
