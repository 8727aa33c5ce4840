//! Upstream's side of the business database: one INSERT a message, and the fence around it.

use async_trait::async_trait;

use super::PortError;
use crate::id::{IdempotencyKey, IncarnationId, MessageId, Seq, UpstreamName};
use crate::message::{Message, Position, StoredMessage};
use crate::time::Timestamp;

/// A message with the seq that was assigned to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbered {
    /// Its place within the incarnation.
    pub seq: Seq,
    /// The message.
    pub message: Message,
}

/// What became of one row of an insert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// Committed under its own id.
    Stored,
    /// The idempotency key and the fingerprint are known: the caller is answered as the first time.
    Repeat {
        /// The id of the first time.
        id: MessageId,
        /// Where that one stands.
        position: Position,
    },
    /// The idempotency key is known under another fingerprint.
    Conflict {
        /// The id that the key belongs to.
        id: MessageId,
    },
}

/// What became of an insert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Insertion {
    /// Committed; one entry per row, in order.
    Committed(Vec<Inserted>),
    /// The incarnation is no longer open, or claimed by an adopter: nothing was written, and nothing may be under it.
    Fenced,
}

/// How an incarnation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IncarnationState {
    /// It may insert.
    Open,
    /// It may not insert any more; its successor is publishing the rest.
    Fenced,
    /// Everything it stored is settled.
    Closed,
}

/// What an incarnation learns when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The latest time until which any incarnation of this upstream, closed ones too, has said that everything is settled.
    pub promised: Timestamp,
    /// The database's time.
    pub now: Timestamp,
}

/// An incarnation that is not closed, as its observers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Whose.
    pub incarnation: IncarnationId,
    /// Grows with each beat; unchanged for a lease on the observer's own clock means dead.
    pub counter: u64,
    /// Everything below is settled.
    pub watermark: Seq,
    /// Every message that was minted under it before this time, by its owner's clock, is settled ([`crate::settled`]). Never later than
    /// the database's clock was when it was written, and never goes back.
    pub settled_until: Timestamp,
    /// Who has claimed its inheritance.
    pub adopter: Option<IncarnationId>,
    /// How it stands.
    pub state: IncarnationState,
}

/// How an unknown commit turned out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entombed {
    /// It had been committed after all.
    Committed(Box<StoredMessage>),
    /// It was rolled back, for good: its place is taken by a tombstone.
    RolledBack,
}

/// Which messages are old enough to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// The time by the clock of the process that deletes.
    pub now: Timestamp,
    /// How old a message must be, milliseconds since its stored `sent_at`.
    pub retention_ms: u64,
}

impl Expiry {
    /// Messages accepted before this time are old enough.
    #[must_use]
    pub const fn before(self) -> Timestamp {
        self.now.minus_millis(self.retention_ms)
    }
}

/// Upstream's tables.
#[async_trait]
pub trait Messages: Send + Sync {
    /// Inserts the incarnation (`open`) and its heartbeat (counter 0, watermark [`Seq::FIRST`], settled until `now`, or until the database's
    /// time if that is earlier) in one transaction. What was promised is read after its commit: whoever reads the heartbeats before it
    /// promises nothing later, and whoever reads them afterwards is held back by this one.
    ///
    /// `now` is a time before which nothing is minted under it, by its owner's clock. Nothing may be minted before [`crate::settled::floor`].
    ///
    /// # Errors
    /// [`PortError`]; it may have been opened, and is left to adoption. [`PortError::Refused`] when another one has its tag
    /// ([`IncarnationId::tag`]): their messages might have the same ids.
    async fn open(&self, upstream: &UpstreamName, incarnation: IncarnationId, now: Timestamp) -> Result<Opened, PortError>;

    /// Inserts a batch in one transaction that share-locks the incarnation's row and requires it to be open, and not claimed by an
    /// adopter: from the claim on no further share lock is taken, so the fence waits only for transactions that were open then.
    ///
    /// # Errors
    /// [`PortError::OutcomeUnknown`] when the commit's answer was lost: resolve each row by [`Self::entomb`]. Otherwise nothing was
    /// written; a batch that is refused as a whole may be tried row by row.
    async fn insert(&self, incarnation: IncarnationId, batch: &[Numbered]) -> Result<Insertion, PortError>;

    /// Resolves an unknown commit by inserting a tombstone at the same place, which waits for the open transaction. In an incarnation
    /// that is gone no tombstone is needed: nothing can be inserted under it.
    ///
    /// # Errors
    /// [`PortError`]; repeat until it answers.
    async fn entomb(&self, position: Position) -> Result<Entombed, PortError>;

    /// The owner's heartbeat: one UPDATE, effective only while nobody has adopted it. False: adopted, stop accepting at once.
    ///
    /// `settled_until` is written no later than the database's time: an owner whose clock is ahead binds nobody to it.
    ///
    /// # Errors
    /// [`PortError`].
    async fn beat(
        &self,
        incarnation: IncarnationId,
        counter: u64,
        watermark: Seq,
        settled_until: Timestamp,
    ) -> Result<bool, PortError>;

    /// Every incarnation of this upstream that is not closed, one's own included. One that was opened by an older version, which does not
    /// write it, is settled until time 0: nothing is known to be.
    ///
    /// # Errors
    /// [`PortError`].
    async fn heartbeats(&self, upstream: &UpstreamName) -> Result<Vec<Heartbeat>, PortError>;

    /// Claims an inheritance by compare-and-set on counter and adopter as they were seen. False: somebody else moved first.
    ///
    /// # Errors
    /// [`PortError`].
    async fn adopt(&self, seen: &Heartbeat, adopter: IncarnationId) -> Result<bool, PortError>;

    /// Sets an incarnation to fenced, in a transaction of its own that waits for every open insert.
    ///
    /// # Errors
    /// [`PortError::Unavailable`] when a statement time-out ended the wait: repeat.
    async fn fence(&self, incarnation: IncarnationId) -> Result<(), PortError>;

    /// Messages of an incarnation from a seq on, ascending, in a new transaction. Left out are tombstones, and rows of mode `outbox`: those
    /// are done as soon as they are committed, as far as watermark and successor go; their own status tracks them ([`super::outbox`]).
    ///
    /// # Errors
    /// [`PortError`].
    async fn scan(&self, incarnation: IncarnationId, from: Seq, limit: u32) -> Result<Vec<StoredMessage>, PortError>;

    /// Messages of an incarnation by their seqs; tombstones and those that are not there are left out. Any order.
    ///
    /// # Errors
    /// [`PortError`].
    async fn at(&self, incarnation: IncarnationId, seqs: &[Seq]) -> Result<Vec<StoredMessage>, PortError>;

    /// Sets an incarnation to closed: everything it stored is settled.
    ///
    /// # Errors
    /// [`PortError`].
    async fn close(&self, incarnation: IncarnationId) -> Result<(), PortError>;

    /// Messages by id, from the primary; those that are not there are left out. Any order.
    ///
    /// # Errors
    /// [`PortError`].
    async fn get(&self, ids: &[MessageId]) -> Result<Vec<StoredMessage>, PortError>;

    /// The message with this idempotency key.
    ///
    /// # Errors
    /// [`PortError`].
    async fn by_key(&self, key: &IdempotencyKey) -> Result<Option<StoredMessage>, PortError>;

    /// Deletes up to `limit` expired rows of this upstream, lowest seqs first, and its closed incarnations that are empty by then.
    /// Returns how many rows it deleted; 0: nothing more for now.
    ///
    /// A message goes when it is older than the retention **and** settled for good: below its incarnation's *stored* watermark, or in a
    /// closed incarnation. An adopter scans from the stored watermark, so what it may still need stays, whatever its age; so does what
    /// stands behind an unsettled message in the same incarnation, and a row of mode `outbox` that is not confirmed. A tombstone goes only with a closed incarnation: until then it keeps a
    /// late insert out, afterwards the fence does. An incarnation's heartbeat goes with it; the one that is settled until the latest time of
    /// all (of several, the one whose incarnation has the highest id) stays, since it tells what was promised. A deleted message frees its idempotency key,
    /// and its id is unknown. Settled is not signed for: whether it was processed only callback knows.
    ///
    /// Age is the one place where clocks meet. A sender's clock that is slow, or a deleter's that is ahead, makes settled messages go that
    /// much too early (a database with a clock of its own bounds the latter); a sender's that is ahead makes its messages, and those behind
    /// them in the same incarnation, stay that much longer. No clock makes an unsettled message go. An order to resend what went too early
    /// is answered as unknown, which parks the delivery for a human.
    ///
    /// # Errors
    /// [`PortError`]: try again later.
    async fn delete_expired(&self, upstream: &UpstreamName, expiry: Expiry, limit: u32) -> Result<u64, PortError>;

    /// Whether a stored message is known to be settled: below its incarnation's watermark, or in a closed one, or in one that is gone
    /// (only closed ones go).
    ///
    /// # Errors
    /// [`PortError`].
    async fn is_settled(&self, position: Position) -> Result<bool, PortError>;
}
