//! What callback knows of one delivery (one message, one subscription), and how that may change.
//!
//! Two voices write to it. The subscription speaks through receipts ([`Signed`]); callback itself, or an operator, gives
//! commands ([`Command`]). [`next`] is the only rule for both: the SQL adapter and the in-memory one apply it and add none.
//!
//! **Invariant (I5):** states only move forward, and a `Done` of the same fingerprint absorbs everything.

use crate::fingerprint::Fingerprint;
use crate::id::UpstreamName;
use crate::message::Attempt;
use crate::receipt::{FailReason, Outcome, Receipt};
use crate::time::Timestamp;

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

    /// The reverse of [`Self::as_str`].
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        let own =
            [Self::ResendsExhausted, Self::Conflict, Self::Changed, Self::Gone, Self::UnknownId, Self::Expired, Self::Operator];
        own.into_iter().find(|reason| reason.as_str() == word).or_else(|| FailReason::parse(word).map(Self::Failed))
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

/// Applies one event. `overdue_ms` is the policy's figure of that name; `now` is MSG DB's clock.
///
/// # Errors
/// [`Illegal`] when a command does not apply (any more). A receipt is never illegal; at most it says nothing new.
pub fn next(current: Option<&Delivery>, event: &Event<'_>, overdue_ms: u64, now: Timestamp) -> Result<Transition, Illegal> {
    let moved = match event {
        Event::Signed(receipt) => return Ok(on_receipt(current, receipt, overdue_ms, now)),
        Event::OrderResend { facts, attempt, lease_ms, seen_live_until, why: _ } => {
            let from = genuine(current, facts);
            may_order(from, *attempt, now)?;
            if from.and_then(|delivery| delivery.live_until) != *seen_live_until {
                return Err(Illegal::SpokenSince);
            }
            let unknown_answers = match from.map(|delivery| &delivery.command) {
                Some(Command::Resending { attempt: held, unknown_answers, .. }) if held == attempt => *unknown_answers,
                _ => 0,
            };
            resending(from, facts, *attempt, now.plus_millis(*lease_ms), unknown_answers, overdue_ms)
        }
        Event::ResendAnswered { attempt } => {
            let (from, _) = held_order(current, *attempt)?;
            Delivery { command: Command::Resent { attempt: *attempt }, due_at: Some(now.plus_millis(overdue_ms)), ..from.clone() }
        }
        Event::UnknownToUpstream { attempt, max_answers } => {
            let (from, answers) = held_order(current, *attempt)?;
            if answers + 1 >= *max_answers {
                parked(Some(from), &from.facts, *attempt, &ParkReason::UnknownId)
            } else {
                resending(Some(from), &from.facts, *attempt, now, answers + 1, overdue_ms)
            }
        }
        Event::Park { facts, attempt, reason } => {
            let from = genuine(current, facts);
            may_park(from, *attempt)?;
            parked(from, facts, *attempt, reason)
        }
        Event::Redrive { lease_ms, allow_duplicate, .. } => {
            redriven(current, now.plus_millis(*lease_ms), *allow_duplicate, overdue_ms)?
        }
        Event::ParkByOperator { .. } => {
            let from = current.ok_or(Illegal::Absent)?;
            let attempt = from.attempt();
            may_park(Some(from), attempt)?;
            parked(Some(from), &from.facts, attempt, &ParkReason::Operator)
        }
        Event::Discard { .. } => discarded(current)?,
        Event::Restore { .. } => restored(current)?,
        Event::Swept => {
            let from = current.ok_or(Illegal::Absent)?;
            if from.due_at.is_none() {
                return Ok(Transition::Unchanged);
            }
            let to = Delivery { due_at: Some(now.plus_millis(overdue_ms)), ..from.clone() };
            return Ok(Transition::Moved { to: Box::new(to), noted: false });
        }
    };
    Ok(Transition::Moved { to: Box::new(moved), noted: true })
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

/// The delivery, if it is of the message that `facts` names; another fingerprint's is an impostor's and counts as absent.
fn genuine<'a>(current: Option<&'a Delivery>, facts: &Facts) -> Option<&'a Delivery> {
    current.filter(|delivery| delivery.facts.fingerprint == facts.fingerprint)
}

fn may_order(from: Option<&Delivery>, attempt: Attempt, now: Timestamp) -> Result<(), Illegal> {
    let Some(from) = from else { return Ok(()) };
    if from.is_done() {
        return Err(Illegal::AlreadyDone);
    }
    match from.command {
        Command::None => Ok(()),
        Command::Parked { .. } => Err(Illegal::Parked),
        Command::Discarded { .. } => Err(Illegal::Discarded),
        Command::Resending { attempt: held, lease_until, .. } if held == attempt && lease_until <= now => Ok(()),
        Command::Resending { attempt: held, .. } | Command::Resent { attempt: held } if held < attempt => Ok(()),
        Command::Resending { .. } | Command::Resent { .. } => Err(Illegal::OutOfDate),
    }
}

fn may_park(from: Option<&Delivery>, attempt: Attempt) -> Result<(), Illegal> {
    match from {
        Some(from) if from.is_done() => Err(Illegal::AlreadyDone),
        Some(Delivery { command: Command::Parked { .. }, .. }) => Err(Illegal::Parked),
        Some(Delivery { command: Command::Discarded { .. }, .. }) => Err(Illegal::Discarded),
        Some(from) if from.command.attempt() > Some(attempt) => Err(Illegal::OutOfDate),
        _ => Ok(()),
    }
}

/// The delivery and its count of "unknown id" answers, if exactly this order is open.
fn held_order(current: Option<&Delivery>, attempt: Attempt) -> Result<(&Delivery, u32), Illegal> {
    let from = current.ok_or(Illegal::Absent)?;
    if from.is_done() {
        return Err(Illegal::AlreadyDone);
    }
    match from.command {
        Command::Resending { attempt: held, unknown_answers, .. } if held == attempt => Ok((from, unknown_answers)),
        _ => Err(Illegal::OutOfDate),
    }
}

fn resending(
    from: Option<&Delivery>,
    facts: &Facts,
    attempt: Attempt,
    lease_until: Timestamp,
    unknown_answers: u32,
    overdue_ms: u64,
) -> Delivery {
    let command = Command::Resending { attempt, lease_until, unknown_answers };
    Delivery { due_at: Some(lease_until.plus_millis(overdue_ms)), ..with_command(from, facts, command) }
}

/// A new epoch. Where another effect is allowed what was signed before counts no more.
fn redriven(
    current: Option<&Delivery>,
    lease_until: Timestamp,
    allow_duplicate: bool,
    overdue_ms: u64,
) -> Result<Delivery, Illegal> {
    let from = current.ok_or(Illegal::Absent)?;
    if from.is_done() && !allow_duplicate {
        return Err(Illegal::AlreadyDone);
    }
    if let Command::Discarded { .. } = from.command {
        return Err(Illegal::Discarded);
    }
    let attempt = from.attempt().redriven();
    let ordered = resending(Some(from), &from.facts, attempt, lease_until, 0, overdue_ms);
    Ok(if allow_duplicate { Delivery { signed: Signed::Nothing, effect_epoch: attempt.epoch, ..ordered } } else { ordered })
}

fn discarded(current: Option<&Delivery>) -> Result<Delivery, Illegal> {
    let from = current.ok_or(Illegal::Absent)?;
    let reason = match &from.command {
        _ if from.is_done() => return Err(Illegal::AlreadyDone),
        Command::Discarded { .. } => return Err(Illegal::Discarded),
        Command::Parked { reason, .. } => reason.clone(),
        Command::None | Command::Resending { .. } | Command::Resent { .. } => ParkReason::Operator,
    };
    let command = Command::Discarded { attempt: from.attempt(), reason };
    Ok(with_command(Some(from), &from.facts, command))
}

fn restored(current: Option<&Delivery>) -> Result<Delivery, Illegal> {
    let from = current.ok_or(Illegal::Absent)?;
    match &from.command {
        _ if from.is_done() => Err(Illegal::AlreadyDone),
        Command::Discarded { attempt, reason } => Ok(parked(Some(from), &from.facts, *attempt, reason)),
        _ => Err(Illegal::NotDiscarded),
    }
}

fn parked(from: Option<&Delivery>, facts: &Facts, attempt: Attempt, reason: &ParkReason) -> Delivery {
    with_command(from, facts, Command::Parked { attempt, reason: reason.clone() })
}

fn with_command(from: Option<&Delivery>, facts: &Facts, command: Command) -> Delivery {
    let signed = from.map_or(Signed::Nothing, |delivery| delivery.signed.clone());
    let live_until = from.and_then(|delivery| delivery.live_until);
    let effect_epoch = from.map_or(0, |delivery| delivery.effect_epoch);
    Delivery { facts: facts.clone(), signed, command, live_until, due_at: None, effect_epoch }
}

fn on_receipt(current: Option<&Delivery>, receipt: &Receipt, overdue_ms: u64, now: Timestamp) -> Transition {
    let facts = Facts { upstream: receipt.upstream.clone(), fingerprint: receipt.fingerprint.clone(), sent_at: receipt.sent_at };
    let says_nothing_new = receipt.is_conflict()
        || current.is_some_and(|delivery| delivery.facts.fingerprint != facts.fingerprint || is_old(delivery, receipt));
    if says_nothing_new {
        return Transition::Unchanged;
    }
    let attempt = receipt.attempt;
    let known_until = current.and_then(|delivery| delivery.live_until);
    let (signed, live_until) = match &receipt.outcome {
        Outcome::Done => (Signed::Done { attempt }, known_until),
        Outcome::Failed { reason, detail } => (Signed::Failed { attempt, reason: *reason, detail: detail.clone() }, known_until),
        Outcome::Retrying { delay_ms, detail } => (
            Signed::Retrying { attempt, delay_ms: *delay_ms, detail: detail.clone() },
            known_until.max(Some(now.plus_millis(*delay_ms))),
        ),
        Outcome::Processing { lease_ms } => {
            let until = Some(now.plus_millis(*lease_ms));
            let still_put_back =
                matches!(current, Some(Delivery { signed: Signed::Retrying { attempt: held, .. }, .. }) if *held == attempt);
            if still_put_back && until <= known_until {
                return Transition::Unchanged;
            }
            (Signed::Processing { attempt }, known_until.max(until))
        }
    };
    let command = current.map_or(Command::None, |delivery| command_after(&delivery.command, receipt));
    let put_aside = matches!(command, Command::Parked { .. } | Command::Discarded { .. });
    let settled = matches!(signed, Signed::Done { .. }) || put_aside;
    let due_at = (!settled).then(|| live_until.unwrap_or(now).max(now).plus_millis(overdue_ms));
    let reopened =
        matches!((current.map(|delivery| &delivery.command), &command), (Some(Command::Parked { .. }), Command::Resent { .. }));
    let noted = reopened || (command != Command::None && matches!(signed, Signed::Done { .. } | Signed::Failed { .. }));
    let facts = current.map_or(facts, |delivery| delivery.facts.clone());
    let effect_epoch = current.map_or(0, |delivery| delivery.effect_epoch);
    let to = Delivery { facts, signed, command, live_until, due_at, effect_epoch };
    if current == Some(&to) { Transition::Unchanged } else { Transition::Moved { to: Box::new(to), noted } }
}

/// What a word of a later epoch makes of a parked delivery: callback gave no such order, so an operator redrove the message from the
/// dead-letter queue. It is under way again, or parked again for what it failed of this time.
fn command_after(command: &Command, receipt: &Receipt) -> Command {
    match (command, &receipt.outcome) {
        (Command::Parked { attempt, .. }, outcome) if attempt.epoch < receipt.attempt.epoch => match outcome {
            Outcome::Done => command.clone(),
            Outcome::Failed { reason, .. } => Command::Parked { attempt: receipt.attempt, reason: ParkReason::Failed(*reason) },
            Outcome::Retrying { .. } | Outcome::Processing { .. } => Command::Resent { attempt: receipt.attempt },
        },
        _ => command.clone(),
    }
}

/// Whether a receipt of the same message comes too late to matter.
fn is_old(delivery: &Delivery, receipt: &Receipt) -> bool {
    if delivery.is_done() {
        return true;
    }
    if matches!(receipt.outcome, Outcome::Done) {
        return receipt.attempt.epoch < delivery.effect_epoch;
    }
    let of_older_epoch = receipt.attempt.epoch < delivery.attempt().epoch;
    let of_older_attempt = delivery.signed.attempt().is_some_and(|spoken| receipt.attempt < spoken);
    let already_failed = matches!(&delivery.signed, Signed::Failed { attempt, .. } if *attempt == receipt.attempt);
    of_older_epoch || of_older_attempt || already_failed
}
