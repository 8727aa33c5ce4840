//! [`Reconciliation`] in memory, over the same rows.

use async_trait::async_trait;
use countersign_delivery::ports::deliveries::DeliveryKey;
use countersign_delivery::ports::reconciliation::{KnownUpstream, Reconciliation, Signature, Turn};
use countersign_delivery::ports::{Clock as _, PortError};
use countersign_delivery::reconcile::{Certificate, Window};
use countersign_delivery::{Timestamp, UpstreamName};

use super::MemoryDeliveries;

/// What is kept of one upstream.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept {
    due_at: Timestamp,
    certified_until: Option<Timestamp>,
    certificate: Option<Certificate>,
}

#[async_trait]
impl Reconciliation for MemoryDeliveries {
    async fn signatures(&self, minted: Window, after: Option<&DeliveryKey>, limit: u32) -> Result<Vec<Signature>, PortError> {
        let data = self.open_data()?;
        let within = data
            .rows
            .iter()
            .filter(|(key, _)| minted.contains(key.message_id.minted_at()) && after.is_none_or(|after| *key > after));
        let signatures = within.map(|(key, row)| Signature {
            key: key.clone(),
            upstream: row.facts.upstream.clone(),
            fingerprint: row.facts.fingerprint.clone(),
            done: row.is_done(),
        });
        Ok(signatures.take(usize::try_from(limit).unwrap_or(usize::MAX)).collect())
    }

    async fn note_upstreams(&self, upstreams: &[UpstreamName]) -> Result<(), PortError> {
        let mut data = self.open_data()?;
        for upstream in upstreams {
            data.upstreams.entry(upstream.clone()).or_default();
        }
        Ok(())
    }

    async fn known_upstreams(&self) -> Result<Vec<KnownUpstream>, PortError> {
        let data = self.open_data()?;
        let known = |(upstream, kept): (&UpstreamName, &Kept)| KnownUpstream {
            upstream: upstream.clone(),
            certified_until: kept.certified_until,
            certificate: kept.certificate.clone(),
        };
        Ok(data.upstreams.iter().map(known).collect())
    }

    async fn take_turn(&self, upstream: &UpstreamName, lease_ms: u64) -> Result<Option<Turn>, PortError> {
        let (mut data, now) = (self.open_data()?, self.clock.now());
        let Some(kept) = data.upstreams.get_mut(upstream).filter(|kept| kept.due_at <= now) else { return Ok(None) };
        kept.due_at = now.plus_millis(lease_ms);
        Ok(Some(Turn { upstream: upstream.clone(), lease_until: kept.due_at, certified_until: kept.certified_until }))
    }

    async fn renew_turn(&self, turn: &Turn, lease_ms: u64) -> Result<Option<Turn>, PortError> {
        let (mut data, now) = (self.open_data()?, self.clock.now());
        let Some(kept) = data.upstreams.get_mut(&turn.upstream).filter(|kept| kept.due_at == turn.lease_until) else {
            return Ok(None);
        };
        kept.due_at = now.plus_millis(lease_ms);
        Ok(Some(Turn { lease_until: kept.due_at, ..turn.clone() }))
    }

    async fn end_turn(&self, turn: &Turn, certified_until: Option<Timestamp>, pause_ms: u64) -> Result<bool, PortError> {
        let (mut data, now) = (self.open_data()?, self.clock.now());
        let Some(kept) = data.upstreams.get_mut(&turn.upstream).filter(|kept| kept.due_at == turn.lease_until) else {
            return Ok(false);
        };
        kept.due_at = now.plus_millis(pause_ms);
        kept.certified_until = certified_until;
        Ok(true)
    }

    async fn keep_certificate(&self, upstream: &UpstreamName, certificate: &Certificate) -> Result<(), PortError> {
        let mut data = self.open_data()?;
        data.upstreams.entry(upstream.clone()).or_default().certificate = Some(certificate.clone());
        Ok(())
    }
}
