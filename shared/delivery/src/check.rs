//! The check: the delayed second message that makes callback look for receipts.

use crate::fingerprint::Fingerprint;
use crate::id::{MessageId, SubscriptionName, UpstreamName};
use crate::message::{Attempt, TraceContext};
use crate::time::Timestamp;

/// From which probe on evidence counts for one subscription of one check; written at callback's first look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Whose work queue.
    pub subscription: SubscriptionName,
    /// The largest probe number stored at that look: only larger ones count.
    pub probe_after: u64,
    /// The end of the live evidence known at that look (`live_until` of the delivery). Another value later means that
    /// the subscription has spoken since, and the count starts over.
    pub live_until: Option<Timestamp>,
}

/// One message to be looked up. Never holds a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The message.
    pub message_id: MessageId,
    /// What its receipts must carry.
    pub fingerprint: Fingerprint,
    /// The try this check belongs to.
    pub attempt: Attempt,
    /// How often callback has already decided to wait.
    pub waits: u32,
    /// The message's own `sent_at`.
    pub sent_at: Timestamp,
    /// Whose receipts are looked for.
    pub required: Vec<SubscriptionName>,
    /// What earlier looks found; at most one per required subscription.
    pub marks: Vec<Mark>,
    /// The message's trace.
    pub trace: Option<TraceContext>,
}

impl Check {
    /// The mark of one subscription, if a look has set it.
    #[must_use]
    pub fn mark(&self, subscription: &SubscriptionName) -> Option<&Mark> {
        self.marks.iter().find(|mark| mark.subscription == *subscription)
    }
}

/// A check of nothing: it goes the way of all checks, and by coming back it proves that what is delayed comes due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Canary {
    /// When it was sent, by its sender's clock.
    pub sent_at: Timestamp,
    /// The tier it was sent through.
    pub delay_ms: u64,
}

impl Canary {
    /// When it has to come back.
    #[must_use]
    pub const fn due_at(self) -> Timestamp {
        self.sent_at.plus_millis(self.delay_ms)
    }
}

/// Checks of one upstream that came due together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckBatch {
    /// Who is asked to send again what is lost.
    pub upstream: UpstreamName,
    /// The entries.
    pub checks: Vec<Check>,
}
