//! What is too old: to be sent again, or to be known at all.
//!
//! Consumers forget what they have done after `dedup_retention`, and MSG DB what is settled after a retention of its own, which is longer. In
//! between every message that nobody has signed for gets a row, since its check then parks it. So a message that is older than what MSG DB
//! has forgotten, and has no row, was signed for or discarded: what comes of it now is a copy of a check that has been judged.

use crate::check::Check;
use crate::decide::{Verdict, is_expired};
use crate::state::{Delivery, ParkReason};
use crate::time::Timestamp;

/// How far back it is known what was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The consumers' memory, milliseconds: nothing older is sent again.
    pub dedup_retention_ms: u64,
    /// MSG DB's: see [`crate::ports::deliveries::Deliveries::forgotten_before`].
    pub forgotten_before: Timestamp,
}

impl Memory {
    /// Whether the delivery may have been settled and deleted: then nothing is known of it, and nothing is left to do.
    #[must_use]
    pub fn has_forgotten(self, check: &Check, delivery: Option<&Delivery>) -> bool {
        delivery.is_none() && check.message_id.minted_at() < self.forgotten_before
    }

    /// What a verdict becomes in view of the message's age.
    ///
    /// What has no row yet, is expired and could only wait is left for a human, since no evidence could have it sent again any more. A late
    /// receipt resolves it.
    #[must_use]
    pub fn in_time(self, check: &Check, delivery: Option<&Delivery>, now: Timestamp, verdict: Verdict) -> Verdict {
        match verdict {
            Verdict::Resend { .. } | Verdict::Wait { .. } | Verdict::Park(_) if self.has_forgotten(check, delivery) => {
                Verdict::Stale
            }
            Verdict::Wait { .. } if delivery.is_none() && is_expired(check.sent_at, now, self.dedup_retention_ms) => {
                Verdict::Park(ParkReason::Expired)
            }
            other => other,
        }
    }
}
