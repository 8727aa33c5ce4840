//! The receipt: the recorded acknowledgement "subscription S settled message M", with its outcome.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::fingerprint::Fingerprint;
use crate::id::{MessageId, SubscriptionName, UpstreamName};
use crate::message::{Attempt, TraceContext};
use crate::probe::Lane;
use crate::time::Timestamp;

/// Why a delivery failed for good. Callback parks it with this reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailReason {
    /// The handler refused it.
    Rejected,
    /// It crashed its consumer too often.
    Poison,
    /// It could not be read.
    Undecodable,
    /// Its id is known under another fingerprint.
    Conflict,
    /// It is older than the idempotency record would be.
    Stale,
    /// The last retry tier failed too.
    RetriesExhausted,
    /// The broker dead-lettered it (delivery limit).
    DeadLettered,
    /// It was started, never completed, and the subscription says to ask a human.
    OutcomeUnknown,
}

impl FailReason {
    /// Every reason, for tables and tests.
    pub const ALL: [Self; 8] = [
        Self::Rejected,
        Self::Poison,
        Self::Undecodable,
        Self::Conflict,
        Self::Stale,
        Self::RetriesExhausted,
        Self::DeadLettered,
        Self::OutcomeUnknown,
    ];

    /// The word used in the database, in JSON and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Poison => "poison",
            Self::Undecodable => "undecodable",
            Self::Conflict => "conflict",
            Self::Stale => "stale",
            Self::RetriesExhausted => "retries_exhausted",
            Self::DeadLettered => "dead_lettered",
            Self::OutcomeUnknown => "outcome_unknown",
        }
    }

    /// The reverse of [`Self::as_str`].
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }
}

/// What the subscription did with the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Processed; the effect happened.
    Done,
    /// Will not be processed; a copy lies in the dead-letter queue.
    Failed {
        /// The class of the failure.
        reason: FailReason,
        /// What a human should read; at most a few hundred bytes, never a payload.
        detail: String,
    },
    /// Put back; it comes again when the delay has passed.
    Retrying {
        /// The retry tier's delay, milliseconds.
        delay_ms: u64,
        /// Why, for a human; at most a few hundred bytes, never a payload. May be empty.
        detail: String,
    },
    /// Held by a live consumer, which will say more before the lease ends.
    Processing {
        /// How long from the receipt's arrival this is to be believed, milliseconds.
        lease_ms: u64,
    },
}

/// One signed statement of one subscription about one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The message.
    pub message_id: MessageId,
    /// Who signs.
    pub subscription: SubscriptionName,
    /// Who sent it, as the message said.
    pub upstream: UpstreamName,
    /// Only an equal fingerprint verifies.
    pub fingerprint: Fingerprint,
    /// The try that was handled.
    pub attempt: Attempt,
    /// The message's own `sent_at`, echoed.
    pub sent_at: Timestamp,
    /// What happened.
    pub outcome: Outcome,
    /// The message's trace.
    pub trace: Option<TraceContext>,
}

/// A probe that came out of the far end of a work queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProbeAnswer {
    /// Which way the probe went.
    pub lane: Lane,
    /// Its number in that lane.
    pub number: u64,
}

/// What one delivery of the receipts queue holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReceiptBatch {
    /// Signed statements, in the order they were signed.
    pub receipts: Vec<Receipt>,
    /// Probes that were signed.
    pub probes: Vec<ProbeAnswer>,
}

impl Receipt {
    /// Whether this is about an impostor: it is counted and kept in the history, and touches no delivery.
    ///
    /// A message whose id is known under another fingerprint must never change the genuine message's state.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self.outcome, Outcome::Failed { reason: FailReason::Conflict, .. })
    }
}

/// Groups receipts by delivery, each group in the order of arrival, so that each row is written once a batch.
///
/// Deliveries come in the order of their first receipt; conflicts are left out (see [`Receipt::is_conflict`]).
#[must_use]
pub fn by_delivery(receipts: &[Receipt]) -> Vec<Vec<&Receipt>> {
    let mut place: HashMap<(MessageId, &SubscriptionName), usize> = HashMap::with_capacity(receipts.len());
    let mut groups: Vec<Vec<&Receipt>> = Vec::with_capacity(receipts.len());
    for receipt in receipts.iter().filter(|receipt| !receipt.is_conflict()) {
        let next = groups.len();
        let at = *place.entry((receipt.message_id, &receipt.subscription)).or_insert(next);
        if at == next {
            groups.push(Vec::with_capacity(1));
        }
        groups[at].push(receipt);
    }
    groups
}
