//! The pure part of the third step: what an answer to a claim, or a handler's failure, means.

use countersign_delivery::ports::claims::Claimed;
use countersign_delivery::topology::{Guard, Subscription};
use countersign_delivery::{FailReason, Timestamp};
use countersign_wire::arrival::Arrival;
use serde::{Deserialize, Serialize};

/// What to do with a message whose handling was started and never ended: nobody knows whether it had its effect. Plays no part where the
/// handler runs within the guard's transaction, for there it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUnknown {
    /// Handle it again; counted as a possible duplicate.
    #[default]
    Rerun,
    /// Leave it for a human.
    Park,
}

/// The figures of one subscription by which claims are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// What makes the effect happen once.
    pub guard: Guard,
    /// What to do after a crash.
    pub on_unknown: OnUnknown,
    /// After more crashes than this a message is poison.
    pub max_crashes: u32,
    /// How long the guard remembers a done message, milliseconds; 0: for ever.
    pub memory_ms: u64,
}

impl Rules {
    /// Whether a start that never ended may have had its effect. Within a transaction it had none, or is found done.
    const fn leaves_unknown(self) -> bool {
        !self.guard.in_transaction()
    }

    /// Whether a claim that ended before its message was done may have let a second effect happen.
    #[must_use]
    pub const fn lost_claim_counts(self) -> bool {
        self.leaves_unknown()
    }
}

/// Why a message is refused whose id stands for another content.
pub const CONFLICT: &str = "its id is known under another fingerprint";

/// Who else works in this process for the subscription while a message is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Company {
    /// Others, too.
    Others,
    /// Nobody: if the process dies now, it is this message's doing.
    Alone,
}

/// What an answer to a claim means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Handle it. The claim is ours.
    Handle {
        /// Starts, this one included.
        starts: u32,
        /// Starts that never ended, of this epoch.
        crashes: u32,
        /// Whether a start that never ended, of whatever epoch, may have had the effect already.
        unknown: bool,
    },
    /// It was being handled when a process died: give the claim back, and come again when nothing else runs. Thus only the message at
    /// fault is blamed for the next crash.
    HandleAlone,
    /// It is done: sign again.
    SignAgain,
    /// Another owner has it: put it back.
    PutBack {
        /// The other's lease, milliseconds.
        for_ms: u64,
    },
    /// It will not be handled.
    Fail {
        /// Why.
        reason: FailReason,
        /// For a human.
        detail: String,
        /// Whether the claim is ours and has to be given back.
        ours: bool,
    },
}

/// Judges the answer to a claim.
#[must_use]
pub fn judge(claimed: &Claimed, arrival: &Arrival, rules: Rules, company: Company, now: Timestamp) -> Plan {
    let fail = |reason, detail: String| Plan::Fail { reason, detail, ours: true };
    match *claimed {
        Claimed::Done => Plan::SignAgain,
        Claimed::Conflict => Plan::Fail { reason: FailReason::Conflict, detail: CONFLICT.to_owned(), ours: false },
        Claimed::Held { for_ms } => Plan::PutBack { for_ms },
        Claimed::Fresh { .. } | Claimed::Forgotten { .. } | Claimed::Interrupted { .. } if is_stale(arrival, rules, now) => {
            fail(FailReason::Stale, format!("sent again after more than {} ms, and no longer remembered", rules.memory_ms))
        }
        Claimed::Fresh { starts } => Plan::Handle { starts, crashes: 0, unknown: false },
        // Of a further effect that was known: an operator ordered it all the same.
        Claimed::Forgotten { .. }
            if arrival.effect_epoch == 0 && rules.leaves_unknown() && rules.on_unknown == OnUnknown::Park =>
        {
            fail(FailReason::OutcomeUnknown, "it has come before, and the record was lost since it was sent".to_owned())
        }
        Claimed::Forgotten { starts } => Plan::Handle { starts, crashes: 0, unknown: rules.leaves_unknown() },
        Claimed::Interrupted { crashes, .. } if crashes > rules.max_crashes => {
            fail(FailReason::Poison, format!("handling it has crashed {crashes} times"))
        }
        // Without a crash in this epoch, an operator has seen what was left unknown and ordered it all the same.
        Claimed::Interrupted { crashes, .. } if crashes > 0 && rules.leaves_unknown() && rules.on_unknown == OnUnknown::Park => {
            fail(FailReason::OutcomeUnknown, format!("handling it was started and never ended, {crashes} times"))
        }
        Claimed::Interrupted { .. } if company == Company::Others => Plan::HandleAlone,
        Claimed::Interrupted { starts, crashes } => Plan::Handle { starts, crashes, unknown: rules.leaves_unknown() },
    }
}

/// Whether it may have been done before, so long ago that the record has forgotten it. That an operator allowed a further effect is no
/// matter of the message's age.
fn is_stale(arrival: &Arrival, rules: Rules, now: Timestamp) -> bool {
    let again = arrival.republished || arrival.attempt.number > 1 || arrival.attempt.epoch > 0;
    again && arrival.effect_epoch == 0 && rules.memory_ms > 0 && now.millis_since(arrival.sent_at) > rules.memory_ms
}

/// Where a message goes that failed and may succeed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterRetry {
    /// Into this tier; it has then been through so many.
    Tier {
        /// The tier's delay, milliseconds.
        delay_ms: u64,
        /// The count that travels with it.
        retries: u32,
    },
    /// Nowhere: the last tier failed, too.
    Exhausted,
}

/// The next tier of a message that failed.
#[must_use]
pub fn after_retry(retries: u32, subscription: &Subscription) -> AfterRetry {
    let tier = usize::try_from(retries).ok().and_then(|at| subscription.retry_delays_ms.get(at));
    tier.map_or(AfterRetry::Exhausted, |delay_ms| AfterRetry::Tier { delay_ms: *delay_ms, retries: retries + 1 })
}

/// Where a message goes that failed because its endpoint does, which no retry of its own is spent on: the tier it would go to otherwise, or again
/// the last one. None: there are no tiers.
#[must_use]
pub fn tier_unspent(retries: u32, subscription: &Subscription) -> Option<u64> {
    let delays = &subscription.retry_delays_ms;
    let at = usize::try_from(retries).unwrap_or(usize::MAX).min(delays.len().saturating_sub(1));
    delays.get(at).copied()
}

/// The tier for a message that another owner has for `for_ms`: the shortest that is long enough, else the longest. None: there are no tiers.
#[must_use]
pub fn tier_for(for_ms: u64, subscription: &Subscription) -> Option<u64> {
    let delays = || subscription.retry_delays_ms.iter().copied();
    delays().filter(|delay| *delay >= for_ms).min().or_else(|| delays().max())
}

#[cfg(test)]
mod tests;
