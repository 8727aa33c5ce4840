//! Upstream's messages in the order of time, as sums over them are made; for reconciliation, reads only.

use async_trait::async_trait;

use super::PortError;
use crate::fingerprint::Fingerprint;
use crate::id::{MessageId, SubscriptionName, UpstreamName};
use crate::reconcile::Window;
use crate::time::Timestamp;
use crate::topology::Mode;

/// One message that is stored and that the broker need not be waited for, as far as sums need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRow {
    /// Which message.
    pub id: MessageId,
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
    /// When it was accepted.
    pub sent_at: Timestamp,
    /// Who must sign for it.
    pub required: Vec<SubscriptionName>,
    /// [`Mode::Outbox`] or [`Mode::Verified`].
    pub mode: Mode,
    /// Where it was published; with the routing key it says whether a row of mode `outbox` has a check.
    pub exchange: String,
    /// See `exchange`.
    pub routing_key: String,
}

/// What one look at a window came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredPage {
    /// By ascending id. May be fewer than were looked at, even none: rows of others and of what is not confirmed are left out.
    pub rows: Vec<StoredRow>,
    /// The last id that was looked at, where the next look begins; none: the window has no more.
    pub next: Option<MessageId>,
}

/// Upstream's tables, for reconciliation.
#[async_trait]
pub trait Stored: Send + Sync {
    /// Looks at up to `limit` messages (1 at least) whose ids were minted in the window, ascending by id, after `after`; answers this upstream's.
    /// Left out are rows of mode `outbox` that the broker has not confirmed: they are nobody's to sign for yet. Tombstones have no id.
    ///
    /// Short statements that lock nothing: a look costs the same however many messages lie before it, and of others in between.
    ///
    /// # Errors
    /// [`PortError`].
    async fn stored(
        &self,
        upstream: &UpstreamName,
        minted: Window,
        after: Option<MessageId>,
        limit: u32,
    ) -> Result<StoredPage, PortError>;
}
