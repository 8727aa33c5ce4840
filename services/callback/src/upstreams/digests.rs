//! What an upstream has stored, in sums and one by one: for reconciliation, reads only.

pub mod grpc;

use async_trait::async_trait;
use countersign_delivery::reconcile::{Sums, Window};
use countersign_delivery::{Fingerprint, MessageId, SubscriptionName, Timestamp, UpstreamName};

/// Messages on one page at most; upstream refuses more.
pub const MAX_PAGE: u32 = 5_000;

/// What is stored in a window, in sums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSums {
    /// Who answered.
    pub upstream: UpstreamName,
    /// Everything minted before is settled; read before the sums.
    pub settled_until: Timestamp,
    /// What was minted before may have been deleted; none: nothing is deleted.
    pub kept_from: Option<Timestamp>,
    /// By subscription and minute.
    pub sums: Sums,
}

/// One message that is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Which.
    pub message_id: MessageId,
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
    /// When it was accepted.
    pub sent_at: Timestamp,
}

/// A page of what is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredPage {
    /// By ascending id.
    pub messages: Vec<Stored>,
    /// Where the next page begins; empty: there is none.
    pub next_page_token: String,
}

/// Why an upstream's books cannot be read now. Reading them again later is always safe.
#[derive(Debug, thiserror::Error)]
pub enum DigestError {
    /// The call failed.
    #[error("the upstream at {address}: {code}: {words}")]
    Failed {
        /// Where it was called.
        address: String,
        /// The gRPC status.
        code: tonic::Code,
        /// Its words.
        words: String,
    },
    /// It did not answer in time.
    #[error("the upstream at {address} did not answer within {deadline_ms} ms")]
    TooLate {
        /// Where it was called.
        address: String,
        /// The call's deadline.
        deadline_ms: u64,
    },
    /// Its answer cannot be read.
    #[error("the upstream at {address} answered with {what}")]
    Nonsense {
        /// Where it was called.
        address: String,
        /// What is wrong with it.
        what: String,
    },
}

impl DigestError {
    /// Whether the call came to its deadline: less may be answered in time. The client says [`tonic::Code::Cancelled`] of its own.
    #[must_use]
    pub const fn is_late(&self) -> bool {
        match self {
            Self::TooLate { .. } => true,
            Self::Failed { code, .. } => matches!(code, tonic::Code::DeadlineExceeded | tonic::Code::Cancelled),
            Self::Nonsense { .. } => false,
        }
    }
}

/// Reads upstreams' books. The address comes from configuration; who is there says the answer.
#[async_trait]
pub trait Digests: Send + Sync {
    /// What is stored in a window of at most a day.
    ///
    /// # Errors
    /// [`DigestError`].
    async fn sums(&self, address: &str, window: Window) -> Result<StoredSums, DigestError>;

    /// One page of at most [`MAX_PAGE`] messages of a window that a subscription has to sign for; an empty token asks for the first.
    ///
    /// # Errors
    /// [`DigestError`].
    async fn list(
        &self,
        address: &str,
        window: Window,
        subscription: &SubscriptionName,
        page_token: String,
    ) -> Result<StoredPage, DigestError>;
}
