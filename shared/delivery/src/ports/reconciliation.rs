//! What reconciliation needs of MSG DB: what was signed for, in the order of time, and how far each upstream has been certified.

use async_trait::async_trait;

use super::PortError;
use super::deliveries::DeliveryKey;
use crate::fingerprint::Fingerprint;
use crate::id::UpstreamName;
use crate::reconcile::{Certificate, Window};
use crate::time::Timestamp;

/// One delivery, as far as sums need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Which message, for whom.
    pub key: DeliveryKey,
    /// Whose message, as its receipt or check says.
    pub upstream: UpstreamName,
    /// Under which fingerprint.
    pub fingerprint: Fingerprint,
    /// Whether it is signed as done.
    pub done: bool,
}

/// One upstream that MSG DB has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownUpstream {
    /// Its name.
    pub upstream: UpstreamName,
    /// Until when the schedule has certified; none: never.
    pub certified_until: Option<Timestamp>,
    /// The last certificate, by the schedule or by an operator.
    pub certificate: Option<Certificate>,
}

/// The right to reconcile one upstream by the schedule, until its lease ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Whose messages.
    pub upstream: UpstreamName,
    /// When the lease ends, by MSG DB's clock. It tells this turn from every other.
    pub lease_until: Timestamp,
    /// Until when the schedule has certified.
    pub certified_until: Option<Timestamp>,
}

/// MSG DB, for reconciliation. Every time in it is by its own clock.
#[async_trait]
pub trait Reconciliation: Send + Sync {
    /// Up to `limit` deliveries whose ids were minted in the window, of every upstream and state, ascending by key, after `after`.
    ///
    /// # Errors
    /// [`PortError`].
    async fn signatures(&self, minted: Window, after: Option<&DeliveryKey>, limit: u32) -> Result<Vec<Signature>, PortError>;

    /// Notes that there are these upstreams. Repeats change nothing.
    ///
    /// # Errors
    /// [`PortError`]; the same call may be repeated.
    async fn note_upstreams(&self, upstreams: &[UpstreamName]) -> Result<(), PortError>;

    /// Every upstream that was noted, by name.
    ///
    /// # Errors
    /// [`PortError`].
    async fn known_upstreams(&self) -> Result<Vec<KnownUpstream>, PortError>;

    /// Takes the turn of an upstream that is due, for `lease_ms`; none when it is not due, not known, or another replica has it.
    /// Due is one that was never reconciled, whose pause is over, or whose lease has ended.
    ///
    /// # Errors
    /// [`PortError`]; the turn may have been taken, and ends by itself.
    async fn take_turn(&self, upstream: &UpstreamName, lease_ms: u64) -> Result<Option<Turn>, PortError>;

    /// Renews the lease of a turn from now on; none when it had ended and somebody else has the turn.
    ///
    /// # Errors
    /// [`PortError`]; the lease may have been renewed: the turn ends by itself.
    async fn renew_turn(&self, turn: &Turn, lease_ms: u64) -> Result<Option<Turn>, PortError>;

    /// Ends a turn: writes down until when is certified now, and makes the upstream due again after `pause_ms`. False: the lease had
    /// ended and somebody else has the turn; nothing is written.
    ///
    /// # Errors
    /// [`PortError`].
    async fn end_turn(&self, turn: &Turn, certified_until: Option<Timestamp>, pause_ms: u64) -> Result<bool, PortError>;

    /// Keeps the upstream's last certificate; an upstream that was not noted is.
    ///
    /// # Errors
    /// [`PortError`].
    async fn keep_certificate(&self, upstream: &UpstreamName, certificate: &Certificate) -> Result<(), PortError>;
}
