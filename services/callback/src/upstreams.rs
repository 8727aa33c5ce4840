//! Upstreams as callback sees them: who can be told to send again, and what they have stored ([`digests`]).

pub mod addresses;
mod channels;
pub mod digests;
pub mod grpc;

use async_trait::async_trait;
use countersign_delivery::{Attempt, Fingerprint, MessageId, SubscriptionName, UpstreamName};

/// Orders in one call at most; upstream refuses more.
pub const MAX_ORDERS: usize = 500;

/// One order to send a message again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResendOrder {
    /// Which message.
    pub message_id: MessageId,
    /// As which try.
    pub attempt: Attempt,
    /// For whom; never empty.
    pub subscriptions: Vec<SubscriptionName>,
    /// What callback knows it by.
    pub fingerprint: Fingerprint,
    /// The epoch in which an operator allowed a second effect; 0: none.
    pub effect_epoch: u32,
}

/// What upstream made of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Message and new check are confirmed by the broker.
    Resent,
    /// Not in time; order it again.
    NotConfirmed,
    /// No such message.
    UnknownId,
    /// Stored under another fingerprint.
    Changed,
    /// Stored, but its body is gone.
    Gone,
}

impl Answer {
    /// The word used in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Resent => "resent",
            Self::NotConfirmed => "not_confirmed",
            Self::UnknownId => "unknown_id",
            Self::Changed => "changed",
            Self::Gone => "gone",
        }
    }
}

/// Why a call brought no answers: the orders may have been carried out or not.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The configuration names no address for it.
    #[error("upstream {0} has no address: give it one under callback.upstreams")]
    NoAddress(UpstreamName),
    /// The call failed.
    #[error("upstream {upstream} at {address}: {code}: {words}")]
    Failed {
        /// Who.
        upstream: UpstreamName,
        /// Where it was called.
        address: String,
        /// The gRPC status.
        code: tonic::Code,
        /// Its words.
        words: String,
    },
    /// It did not answer in time.
    #[error("upstream {upstream} did not answer within {deadline_ms} ms")]
    TooLate {
        /// Who.
        upstream: UpstreamName,
        /// The call's deadline.
        deadline_ms: u64,
    },
    /// Its answer cannot be matched to the orders.
    #[error("upstream {upstream} answered {answers} orders of {orders}, or one with an unknown word")]
    Nonsense {
        /// Who.
        upstream: UpstreamName,
        /// Orders given.
        orders: usize,
        /// Answers got.
        answers: usize,
    },
}

impl CallError {
    /// Whether calling again may help. An address may be configured, a service repaired: always.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        true
    }

    /// The one word for it.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::NoAddress(_) => "no_address",
            Self::Failed { .. } => "call_failed",
            Self::TooLate { .. } => "timeout",
            Self::Nonsense { .. } => "nonsense",
        }
    }
}

/// Tells upstreams to send again.
#[async_trait]
pub trait Upstreams: Send + Sync {
    /// Gives up to [`MAX_ORDERS`] orders to one upstream in one call; answers in order, within the deadline of the implementation.
    ///
    /// # Errors
    /// [`CallError`]: whether anything was sent is unknown.
    async fn resend(&self, upstream: &UpstreamName, orders: &[ResendOrder]) -> Result<Vec<Answer>, CallError>;
}
