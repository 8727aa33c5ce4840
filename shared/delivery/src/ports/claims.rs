//! Claims: who may process a message now, and whether it was processed before.

use async_trait::async_trait;

use super::PortError;
use crate::fingerprint::Fingerprint;
use crate::id::{MessageId, SubscriptionName};

/// What is claimed: one message for one subscription.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClaimKey {
    /// For whom.
    pub subscription: SubscriptionName,
    /// Which message.
    pub message_id: MessageId,
    /// As which content: the same in every effect epoch, or it is a conflict.
    pub fingerprint: Fingerprint,
    /// Which effect: the epoch in which an operator allowed a further one, at most [`EFFECT_EPOCH_MAX`](crate::message::EFFECT_EPOCH_MAX);
    /// 0: the first. Each is claimed, started and done by itself.
    pub effect_epoch: u32,
}

/// A claim as one delivery makes it. The token is fresh per delivery, so that a lost answer can be told from another owner.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// What.
    pub key: ClaimKey,
    /// Who: unique per delivery.
    pub token: String,
    /// The epoch of the message's attempt. The record keeps the largest one that claimed. One larger than that counts starts and crashes
    /// afresh, for an operator ordered it; a smaller one is counted with the epoch on record.
    pub epoch: u32,
    /// Whether its handling may have been started before: the broker has handed it out before, or it was published again. A record that
    /// costs a write for each start may leave out those that cannot have been.
    pub again: bool,
}

/// The answer to a claim. Our own token being found (a lost answer), it is the answer of the first time: the start counts once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// Ours, and nobody has an unfinished start on record, in any epoch.
    Fresh {
        /// How often processing has been started in the epoch on record, this start included.
        starts: u32,
    },
    /// Ours, but an earlier start was never completed nor given back: whether its effect happened is unknown.
    Interrupted {
        /// How often processing has been started in the epoch on record, this start included.
        starts: u32,
        /// How many of those starts were never completed nor given back. 0: all such were of earlier epochs, so this one has nothing to
        /// answer for; but a second effect is possible all the same.
        crashes: u32,
    },
    /// Ours, and nothing is on record; but it may have been started before ([`Claim::again`]), and the record begins only after the message
    /// was minted: it was emptied, or lost. Whether it was processed is unknown.
    Forgotten {
        /// As in [`Self::Fresh`].
        starts: u32,
    },
    /// Processed before.
    Done,
    /// This id is known under another fingerprint.
    Conflict,
    /// Another live owner has it.
    Held {
        /// For at most so long, milliseconds.
        for_ms: u64,
    },
}

/// How completing, renewing or releasing went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// The claim was still ours. Of completing: or it had ended, but nobody has claimed since, or whoever did was told that a start was
    /// unfinished ([`Claimed::Interrupted`]), so that a second effect is theirs to count.
    Ours,
    /// It had expired or was another's: a second owner may have processed the message as well, and (of completing) without knowing of this one.
    Lost,
}

/// The record that makes consumers idempotent. Every call is one round trip for the whole batch, answers in order.
#[async_trait]
pub trait Claims: Send + Sync {
    /// Claims each for `lease_ms`; the record of starts outlives the lease.
    ///
    /// # Errors
    /// [`PortError`] when the record cannot be read or written: then nothing may be processed.
    async fn claim(&self, claims: &[Claim], lease_ms: u64) -> Result<Vec<Claimed>, PortError>;

    /// Extends the leases of claims that are still ours.
    ///
    /// # Errors
    /// [`PortError`] when the record cannot be written.
    async fn renew(&self, claims: &[Claim], lease_ms: u64) -> Result<Vec<Held>, PortError>;

    /// Marks each as done for `retention_ms`, whoever holds it: the effect happened.
    ///
    /// # Errors
    /// [`PortError`] when the record cannot be written.
    async fn complete(&self, claims: &[Claim], retention_ms: u64) -> Result<Vec<Held>, PortError>;

    /// Gives claims back that are still ours (compare and delete), so that a later delivery starts afresh.
    ///
    /// # Errors
    /// [`PortError`] when the record cannot be written.
    async fn release(&self, claims: &[Claim]) -> Result<Vec<Held>, PortError>;
}
