//! Archive: what is done, remembered in a database, for guards that do not trust Redis to keep it.

use async_trait::async_trait;

use super::PortError;
use super::claims::ClaimKey;
use crate::fingerprint::Fingerprint;
use crate::id::SubscriptionName;
use crate::time::Timestamp;

/// Rows `(subscription, message id, effect epoch)` with a fingerprint. Each call is one statement for the whole batch.
#[async_trait]
pub trait Archive: Send + Sync {
    /// The fingerprint under which each effect happened, in order; or, if the message is there with another fingerprint in another effect epoch
    /// only, that one. None: it is not there.
    ///
    /// # Errors
    /// [`PortError`] when it cannot be read: then nothing may be processed.
    async fn find(&self, keys: &[ClaimKey]) -> Result<Vec<Option<Fingerprint>>, PortError>;

    /// Writes down that each is done. What is there already stays as it is, whatever its fingerprint; the answer of the second time is that
    /// of the first.
    ///
    /// # Errors
    /// [`PortError`] when it cannot be written.
    async fn record(&self, keys: &[ClaimKey]) -> Result<(), PortError>;

    /// Forgets what was accepted (by its id) as well as done more than `older_than_ms` ago: whatever of it comes again is stale by then. At most
    /// `limit` rows of one subscription; answers how many. The earlier of `now` and the database's clock counts.
    ///
    /// # Errors
    /// [`PortError`] when it cannot be written.
    async fn forget(
        &self,
        subscription: &SubscriptionName,
        older_than_ms: u64,
        now: Timestamp,
        limit: u32,
    ) -> Result<u64, PortError>;
}
