//! Downstream's tables: what is done, and which starts of what comes again were never finished.
//!
//! A row of `countersign_inbox` says that a message is done for a subscription. It is written in the handler's own transaction
//! ([`SqlInbox::begin`]): effect and row are committed together or not at all, and the row excludes a second owner. Or it is written
//! behind Redis, after the effect ([`Archive`]).
//!
//! **Invariant:** a row of `countersign_inbox` is inserted and deleted, never changed.
//! **Invariant:** the count of starts decides about poison only; whether a message is done is told by its row alone.

mod archive;
mod begin;
mod row;
mod starts;
mod transaction;

pub(crate) use archive::least_id;
pub use begin::{Taking, TransactionLimits};
pub use transaction::{Committed, InboxTransaction};

use async_trait::async_trait;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::archive::Archive;
use countersign_delivery::ports::claims::{Claim, ClaimKey, Claimed, Claims, Held};
use countersign_delivery::{Fingerprint, SubscriptionName, Timestamp};

use crate::config::Config;
use crate::database::{Database, Kind};
use crate::sql::Sql;

/// Connections that handlers' transactions leave to everything else: claims are looked up, and what was committed is read back, while they run.
const RESERVED_CONNECTIONS: u32 = 2;

/// How many handlers' transactions may be open in such a database.
pub(crate) fn at_a_time(config: &Config) -> usize {
    match Kind::of(config.url.expose()) {
        Some(Kind::Postgres) => config.max_connections.saturating_sub(RESERVED_CONNECTIONS).max(1) as usize,
        _ => 1,
    }
}

/// Downstream's side of the business database. Cheap to clone.
///
/// As [`Claims`] it has neither leases nor locks: it answers what is on record, and never [`Claimed::Held`]. Only starts of what comes again
/// ([`Claim::again`]) are written down.
#[derive(Clone, Debug)]
pub struct SqlInbox {
    database: Database,
}

impl SqlInbox {
    pub(crate) const fn new(database: Database) -> Self {
        Self { database }
    }

    fn sql(&self) -> &Sql {
        self.database.sql()
    }
}

#[async_trait]
impl Archive for SqlInbox {
    async fn find(&self, keys: &[ClaimKey]) -> Result<Vec<Option<Fingerprint>>, PortError> {
        archive::find(self.sql(), keys).await
    }

    async fn record(&self, keys: &[ClaimKey]) -> Result<(), PortError> {
        archive::record(self.sql(), keys).await
    }

    async fn forget(
        &self,
        subscription: &SubscriptionName,
        older_than_ms: u64,
        now: Timestamp,
        limit: u32,
    ) -> Result<u64, PortError> {
        // The database's clock must agree that it is old.
        let now = self.database.inner.clock.now(self.sql()).await?.min(now);
        archive::forget(self.sql(), subscription, now.minus_millis(older_than_ms), limit).await
    }
}

/// `lease_ms` and `retention_ms` mean nothing here: nothing is leased, and [`Archive::forget`] ends what is kept.
#[async_trait]
impl Claims for SqlInbox {
    /// One query; and one statement more if some of them come again.
    async fn claim(&self, claims: &[Claim], _lease_ms: u64) -> Result<Vec<Claimed>, PortError> {
        starts::claim(self.sql(), claims).await
    }

    /// There is nothing to renew.
    async fn renew(&self, claims: &[Claim], _lease_ms: u64) -> Result<Vec<Held>, PortError> {
        Ok(vec![Held::Ours; claims.len()])
    }

    /// Call it when the transaction is committed ([`InboxTransaction::commit`]), which alone makes a message done: this forgets its starts.
    async fn complete(&self, claims: &[Claim], _retention_ms: u64) -> Result<Vec<Held>, PortError> {
        starts::complete(self.sql(), claims).await
    }

    /// Closes the start of each that has one on record.
    async fn release(&self, claims: &[Claim]) -> Result<Vec<Held>, PortError> {
        starts::release(self.sql(), claims).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handlers_leave_connections_to_those_who_look_things_up() {
        let of = |url: &str, max_connections| at_a_time(&Config { max_connections, ..Config::from(url) });
        let server = "postgres://127.0.0.1/orders";
        assert_eq!([of(server, 8), of(server, 3), of(server, 2), of("sqlite:orders.db", 8)], [6, 1, 1, 1]);
    }
}
