//! The message: a business event on its way to every subscription that requires it.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::fingerprint::Fingerprint;
use crate::id::{IdempotencyKey, IncarnationId, MessageId, Seq, SubscriptionName};
use crate::time::Timestamp;
use crate::topology::Mode;

/// Which try of a message this is. Ordered: a later epoch beats any attempt of an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attempt {
    /// 0 at first; +1 each time an operator redrives.
    pub epoch: u32,
    /// 1 for the first send of an epoch; +1 for each resend.
    pub number: u32,
}

impl Attempt {
    /// The very first send.
    pub const FIRST: Self = Self { epoch: 0, number: 1 };

    /// The next resend within the same epoch.
    #[must_use]
    pub const fn resent(self) -> Self {
        Self { epoch: self.epoch, number: self.number + 1 }
    }

    /// The first send of the next epoch: an operator's redrive.
    #[must_use]
    pub const fn redriven(self) -> Self {
        Self { epoch: self.epoch + 1, number: 1 }
    }
}

/// Largest effect epoch, 2³¹ − 1: what a record with four bytes for it can tell. See [`crate::ports::claims::ClaimKey::effect_epoch`].
pub const EFFECT_EPOCH_MAX: u32 = 0x7fff_ffff;

/// W3C trace context of the first publish; it stays with the message through every resend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceContext {
    /// `00-<trace id>-<span id>-<flags>`.
    pub traceparent: String,
    /// Vendor entries, when there are any.
    pub tracestate: Option<String>,
}

/// A message as its caller meant it and upstream accepted it. Never changes once stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Minted by upstream.
    pub id: MessageId,
    /// Same id or key with another fingerprint is a conflict, never processed.
    pub fingerprint: Fingerprint,
    /// The caller's own key; unique among the messages of one business database.
    pub idempotency_key: Option<IdempotencyKey>,
    /// Who must sign; sorted, without repeats, fixed when the message was accepted, never empty.
    pub required: Vec<SubscriptionName>,
    /// Where it is published.
    pub exchange: String,
    /// How the exchange routes it.
    pub routing_key: String,
    /// The business type, such as `order.created`.
    pub kind: String,
    /// Media type of the body.
    pub content_type: String,
    /// The caller's own headers; none begins with `countersign-`.
    pub headers: BTreeMap<String, String>,
    /// The body, never looked into.
    pub body: Bytes,
    /// When upstream accepted it, by upstream's clock: as a rule when its id was minted.
    pub sent_at: Timestamp,
    /// Where its trace began.
    pub trace: Option<TraceContext>,
    /// How it is delivered: what its route said when it was accepted.
    pub mode: Mode,
}

impl Message {
    /// The same under this id, sent when that was minted, if that is about now.
    ///
    /// It is not while ids wait for a clock that was ahead and has been set back; what goes by a message's age must not wait for it as well.
    #[must_use]
    pub fn under(self, id: MessageId) -> Self {
        const ABOUT_NOW_MS: u64 = 10_000;
        let (accepted_at, minted_at) = (self.sent_at, id.minted_at());
        let is_now = minted_at >= accepted_at && minted_at.millis_since(accepted_at) <= ABOUT_NOW_MS;
        Self { id, sent_at: if is_now { minted_at } else { accepted_at }, ..self }
    }
}

/// Where a message stands in its upstream's own order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The run of upstream that accepted it.
    pub incarnation: IncarnationId,
    /// That run's counter.
    pub seq: Seq,
}

/// A message that is committed in the business database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMessage {
    /// Its place in the order that watermarks count in.
    pub position: Position,
    /// The message itself.
    pub message: Message,
}
