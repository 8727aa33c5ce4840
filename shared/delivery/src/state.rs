//! What callback knows of one delivery (one message, one subscription), and how that may change.
//!
//! Two voices write to it. The subscription speaks through receipts ([`Signed`]); callback itself, or an operator, gives
//! commands ([`Command`]). [`next`] is the only rule for both: the SQL adapter and the in-memory one apply it and add none.
//!
//! **Invariant (I5):** states only move forward, and a `Done` of the same fingerprint absorbs everything.

mod transitions;

use crate::fingerprint::Fingerprint;
use crate::id::UpstreamName;
use crate::message::Attempt;
use crate::receipt::{FailReason, Receipt};
use crate::time::Timestamp;

pub use transitions::next;

/// What the subscription has said last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signed {
    /// Nothing yet. Entered by a command on a delivery nobody spoke of; left by the first receipt.
    Nothing,
    /// A live consumer held it. Left by any later word, or believed until `live_until`.
    Processing {
        /// The try it held.
        attempt: Attempt,
    },
    /// It was put back for a while. Left by any later word, or believed until `live_until`.
    Retrying {
        /// The try that will come again.
        attempt: Attempt,
        /// The tier it waits in, milliseconds.
        delay_ms: u64,
        /// Why, for a human; may be empty.
        detail: String,
    },
    /// It will not be processed. Left by `Done`, or by a later attempt's word.
    Failed {
        /// The try that failed.
        attempt: Attempt,
        /// The class of the failure.
        reason: FailReason,
        /// For a human.
        detail: String,
    },
    /// Processed. Never left.
    Done {
        /// The try that was done.
        attempt: Attempt,
    },
}

/// What callback (or an operator) has ordered last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Nothing: the first send is on its way.
    None,
    /// An order to resend was written down; upstream's answer is not known. Left by the answer.
    Resending {
        /// The try that is ordered.
        attempt: Attempt,
        /// Until then the replica that wrote it is at it; afterwards any may repeat the same order.
        lease_until: Timestamp,
        /// How often upstream has answered "unknown id".
        unknown_answers: u32,
    },
    /// Upstream has published this try and a new check; or downstream redrove it from the dead-letter queue.
    Resent {
        /// That try.
        attempt: Attempt,
    },
    /// Left for a human. Left by a redrive here or at downstream, by a discard, or by a late `Done`.
    Parked {
        /// The last try.
        attempt: Attempt,
        /// Why.
        reason: ParkReason,
    },
    /// A named operator wants nothing more done about it. Left by a restore, or by a late `Done`.
    Discarded {
        /// The last try.
        attempt: Attempt,
        /// Why it was parked, or is when it is restored.
        reason: ParkReason,
    },
}

/// Why a delivery was left for a human.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParkReason {
    /// The subscription refused it.
    Failed(FailReason),
    /// Lost again and again.
    ResendsExhausted,
    /// Its receipts carry another fingerprint.
    Conflict,
    /// Upstream rebuilt the body, and it differs.
    Changed,
    /// Upstream has the row, but its source is gone.
    Gone,
    /// Upstream does not know the id, asked twice.
    UnknownId,
    /// Too old to be resent without risking a second effect.
    Expired,
    /// An operator said so.
    Operator,
}

impl ParkReason {
    /// The word used in the database, in JSON and in metrics.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Failed(reason) => reason.as_str(),
            Self::ResendsExhausted => "resends_exhausted",
            Self::Conflict => "fingerprint_conflict",
            Self::Changed => "changed",
            Self::Gone => "gone",
            Self::UnknownId => "unknown_id",
            Self::Expired => "expired",
            Self::Operator => "operator",
        }
    }

    /// Every reason, for tables and tests.
    pub fn all() -> impl Iterator<Item = Self> {
        let own =
            [Self::ResendsExhausted, Self::Conflict, Self::Changed, Self::Gone, Self::UnknownId, Self::Expired, Self::Operator];
        own.into_iter().chain(FailReason::ALL.map(Self::Failed))
    }

    /// The reverse of [`Self::as_str`].
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::all().find(|reason| reason.as_str() == word)
    }
}

/// By what evidence a message was sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResendReason {
    /// Two probes in a row came through its work queue, and no receipt of any kind did.
    Lost {
        /// What was published before this probe had been delivered, and had had its time.
        probe: u64,
    },
    /// Its subscription signs no probes, and the time for a receipt was over.
    TimedOut {
        /// How long was waited, milliseconds.
        waited_ms: u64,
    },
    /// The order had been given, and whoever gave it fell silent before upstream's answer.
    Repeated,
}

impl ResendReason {
    /// The one word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lost { .. } => "lost",
            Self::TimedOut { .. } => "timed_out",
            Self::Repeated => "repeated",
        }
    }
}

impl std::fmt::Display for ResendReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lost { probe } => write!(f, "lost: what was sent before probe {probe} has been delivered, and no receipt came"),
            Self::TimedOut { waited_ms } => {
                write!(f, "timed out: no receipt within {waited_ms} ms, and its consumer signs no probes")
            }
            Self::Repeated => f.write_str("repeated: the order stood, but not its answer"),
        }
    }
}

/// What identifies the message behind a delivery. The first receipt fixes it; later ones cannot change it, a command can, for it
/// comes from the message's own check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Who can send it again.
    pub upstream: UpstreamName,
    /// What the receipts must carry.
    pub fingerprint: Fingerprint,
    /// The message's own `sent_at`.
    pub sent_at: Timestamp,
}

/// One row of MSG DB: receipt and delivery state in one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The message.
    pub facts: Facts,
    /// The subscription's last word.
    pub signed: Signed,
    /// Callback's last command.
    pub command: Command,
    /// Until when `Processing` or `Retrying` is believed, by MSG DB's clock; only moves forward.
    pub live_until: Option<Timestamp>,
    /// When somebody has to look again even if no check comes; none once settled.
    pub due_at: Option<Timestamp>,
    /// The epoch in which an operator allowed another effect; 0: never. It joins the key of the consumers' record, and a `Done` of an older
    /// epoch says nothing about it.
    pub effect_epoch: u32,
}

/// What may happen to a delivery.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A receipt arrived.
    Signed(&'a Receipt),
    /// Callback wants this try sent again.
    OrderResend {
        /// Of which message.
        facts: Facts,
        /// The try that is ordered.
        attempt: Attempt,
        /// How long the order is ours, milliseconds.
        lease_ms: u64,
        /// `live_until` as it was when the verdict was reached: another value now means that the subscription has spoken since.
        seen_live_until: Option<Timestamp>,
        /// By what evidence; for the history.
        why: ResendReason,
    },
    /// Upstream published the try and its check.
    ResendAnswered {
        /// That try.
        attempt: Attempt,
    },
    /// Upstream does not know the id.
    UnknownToUpstream {
        /// The try that was ordered.
        attempt: Attempt,
        /// How many such answers park it.
        max_answers: u32,
    },
    /// Callback gives up on it.
    Park {
        /// Of which message.
        facts: Facts,
        /// The last try.
        attempt: Attempt,
        /// Why.
        reason: ParkReason,
    },
    /// An operator wants it sent again in a new epoch.
    Redrive {
        /// How long the order is ours, milliseconds.
        lease_ms: u64,
        /// Whether it may have its effect a second time: a delivery that is done is sent again only then.
        allow_duplicate: bool,
        /// Who and why, for the history.
        note: String,
    },
    /// An operator wants it left alone for now.
    ParkByOperator {
        /// Who and why, for the history.
        note: String,
    },
    /// An operator wants nothing more done about it.
    Discard {
        /// Who and why, for the history.
        note: String,
    },
    /// An operator takes a discard back: it is parked again.
    Restore {
        /// Who and why, for the history.
        note: String,
    },
    /// It was overdue, and a new check is on its way.
    Swept,
}

/// Why an event does not apply. Expected under concurrency: somebody else was faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Illegal {
    /// Signed as done: nothing may be ordered any more.
    #[error("the delivery is already done")]
    AlreadyDone,
    /// A human has to decide first.
    #[error("the delivery is parked")]
    Parked,
    /// An operator has discarded it.
    #[error("the delivery is discarded: restore it first")]
    Discarded,
    /// There is no discard to take back.
    #[error("the delivery is not discarded")]
    NotDiscarded,
    /// The same or a later try was ordered, or the order is another replica's for now.
    #[error("the order is out of date, or held by another callback")]
    OutOfDate,
    /// The subscription has spoken since the verdict was reached.
    #[error("the subscription has spoken since")]
    SpokenSince,
    /// There is nothing of that kind.
    #[error("no such delivery")]
    Absent,
}

/// What [`next`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transition {
    /// The event says nothing new.
    Unchanged,
    /// The delivery is now this. `noted`: worth a line in its history.
    Moved {
        /// The new state.
        to: Box<Delivery>,
        /// Whether the history keeps it.
        noted: bool,
    },
}

impl Delivery {
    /// Whether the subscription has signed it as done.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        matches!(self.signed, Signed::Done { .. })
    }

    /// Whether a human has it, or has thrown it away.
    #[must_use]
    pub const fn is_put_aside(&self) -> bool {
        matches!(self.command, Command::Parked { .. } | Command::Discarded { .. })
    }

    /// The latest try known of: ordered by a command, or spoken of by a receipt.
    #[must_use]
    pub fn attempt(&self) -> Attempt {
        self.command.attempt().max(self.signed.attempt()).unwrap_or(Attempt::FIRST)
    }

    /// The try that a check must carry to judge this delivery as it stands: the one before an open order, so that it repeats the
    /// order instead of spending another attempt; otherwise the latest.
    #[must_use]
    pub fn attempt_to_check(&self) -> Attempt {
        match self.command {
            Command::Resending { attempt, .. } => Attempt { number: attempt.number.saturating_sub(1), ..attempt },
            _ => self.attempt(),
        }
    }

    /// What would go backwards if this delivery became `next` (I5); none for a transition that may happen.
    #[must_use]
    pub fn goes_back_in(&self, next: &Self) -> Option<&'static str> {
        if self.facts.fingerprint != next.facts.fingerprint {
            return None;
        }
        if self.is_done() && !next.is_done() && next.effect_epoch <= self.effect_epoch {
            Some("what was done is not done any more")
        } else if next.attempt() < self.attempt() && !next.is_done() {
            Some("the attempt went back")
        } else if next.live_until < self.live_until {
            Some("the end of the live evidence went back")
        } else {
            None
        }
    }

    /// Whether `Processing` or `Retrying` is still to be believed.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        let live = matches!(self.signed, Signed::Processing { .. } | Signed::Retrying { .. });
        live && self.live_until.is_some_and(|until| until > now)
    }
}

impl Signed {
    /// The try spoken of.
    #[must_use]
    pub const fn attempt(&self) -> Option<Attempt> {
        match self {
            Self::Nothing => None,
            Self::Processing { attempt }
            | Self::Retrying { attempt, .. }
            | Self::Failed { attempt, .. }
            | Self::Done { attempt } => Some(*attempt),
        }
    }
}

impl Command {
    /// The try ordered.
    #[must_use]
    pub const fn attempt(&self) -> Option<Attempt> {
        match self {
            Self::None => None,
            Self::Resending { attempt, .. }
            | Self::Resent { attempt }
            | Self::Parked { attempt, .. }
            | Self::Discarded { attempt, .. } => Some(*attempt),
        }
    }
}
