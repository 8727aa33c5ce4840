//! Upstream's rows of mode `outbox`: their statuses, the claims of the sweeper, and the releases of operators.

use async_trait::async_trait;

use super::PortError;
use crate::id::{MessageId, UpstreamName};
use crate::message::{Position, StoredMessage};
use crate::outbox::{Entry, Outcome, Patience, Status};

/// A row with what it says beside its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxRow {
    /// The message.
    pub stored: StoredMessage,
    /// How it stands.
    pub entry: Entry,
}

/// What became of one release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    /// It is to be published at once, with all tries before it.
    Released,
    /// It does not wait for a human.
    Otherwise(Status),
    /// This upstream has no such row of mode `outbox`.
    Unknown,
}

/// A row that its publisher claims by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// Which.
    pub position: Position,
    /// How long ago at most its publisher stored or claimed it, or wrote a refusal, milliseconds. Whoever claimed it later made it due later
    /// than that, so it is passed over.
    pub since_ms: u64,
}

/// Which rows a claim is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Those that are due, the longest due first.
    Due,
    /// These, due or not, unless somebody else has claimed them since their publisher had them last. At most 256.
    These(Vec<Named>),
}

/// Rows of mode `outbox` among upstream's messages. [`super::messages::Messages::insert`] stores them: [`Status::Sending`], no tries, due
/// once the time of a sweep has passed by the database's clock.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// Writes outcomes by [`crate::outbox::next`], all in one statement; a row that is not there or has no status is passed over. Returns
    /// which rows this call made fail. Positions are distinct, at most 256.
    ///
    /// # Errors
    /// [`PortError`]; writing the same again counts a refusal twice at worst.
    async fn record(&self, outcomes: &[(Position, Outcome)], patience: Patience) -> Result<Vec<Position>, PortError>;

    /// Claims up to `limit` rows at [`Status::Sending`] of this upstream for publishing, by moving the time at which they are due to the time
    /// of a sweep from now. Two claims of what is due at the same time never get one row.
    ///
    /// # Errors
    /// [`PortError`]; what was claimed without an answer is due again after the time of a sweep.
    async fn claim(&self, upstream: &UpstreamName, which: &Claim, limit: u32) -> Result<Vec<StoredMessage>, PortError>;

    /// How rows stand, by id; any order. What is not there or has no status is left out.
    ///
    /// # Errors
    /// [`PortError`].
    async fn entries(&self, ids: &[MessageId]) -> Result<Vec<(MessageId, Entry)>, PortError>;

    /// Rows of this upstream that wait for a human, by ascending id, from after `after` on, up to `limit`; bodies are left empty.
    ///
    /// # Errors
    /// [`PortError`].
    async fn failed(&self, upstream: &UpstreamName, after: Option<MessageId>, limit: u32) -> Result<Vec<OutboxRow>, PortError>;

    /// Releases rows of this upstream by [`crate::outbox::released`]; one answer each, in order. Repeating it is harmless.
    ///
    /// # Errors
    /// [`PortError`].
    async fn release(&self, upstream: &UpstreamName, ids: &[MessageId]) -> Result<Vec<Released>, PortError>;

    /// How many rows of this upstream wait for a human, counted up to `limit`.
    ///
    /// # Errors
    /// [`PortError`].
    async fn count_failed(&self, upstream: &UpstreamName, limit: u32) -> Result<u64, PortError>;
}
