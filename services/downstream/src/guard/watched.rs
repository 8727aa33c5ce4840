//! A record whose gate closes as soon as it does not answer, whoever asked.

use async_trait::async_trait;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::archive::Archive;
use countersign_delivery::ports::claims::{Claim, ClaimKey, Claimed, Claims, Held};
use countersign_delivery::{Fingerprint, SubscriptionName, Timestamp};
use countersign_telemetry::with_sources;

use crate::gate::Gate;

/// Claims or an archive, with the gate of the server they live in.
#[derive(Clone, Debug)]
pub struct Watched<R> {
    record: R,
    gate: Gate,
}

impl<R> Watched<R> {
    /// This record behind this gate.
    pub const fn new(record: R, gate: Gate) -> Self {
        Self { record, gate }
    }

    fn note<T>(&self, answer: Result<T, PortError>) -> Result<T, PortError> {
        answer.inspect_err(|error| self.gate.close(&with_sources(error)))
    }
}

#[async_trait]
impl<R: Claims> Claims for Watched<R> {
    async fn claim(&self, claims: &[Claim], lease_ms: u64) -> Result<Vec<Claimed>, PortError> {
        self.note(self.record.claim(claims, lease_ms).await)
    }

    async fn renew(&self, claims: &[Claim], lease_ms: u64) -> Result<Vec<Held>, PortError> {
        self.note(self.record.renew(claims, lease_ms).await)
    }

    async fn complete(&self, claims: &[Claim], retention_ms: u64) -> Result<Vec<Held>, PortError> {
        self.note(self.record.complete(claims, retention_ms).await)
    }

    async fn release(&self, claims: &[Claim]) -> Result<Vec<Held>, PortError> {
        self.note(self.record.release(claims).await)
    }
}

#[async_trait]
impl<R: Archive> Archive for Watched<R> {
    async fn find(&self, keys: &[ClaimKey]) -> Result<Vec<Option<Fingerprint>>, PortError> {
        self.note(self.record.find(keys).await)
    }

    async fn record(&self, keys: &[ClaimKey]) -> Result<(), PortError> {
        self.note(self.record.record(keys).await)
    }

    async fn forget(
        &self,
        subscription: &SubscriptionName,
        older_than_ms: u64,
        now: Timestamp,
        limit: u32,
    ) -> Result<u64, PortError> {
        // No message waits for it.
        self.record.forget(subscription, older_than_ms, now, limit).await
    }
}
