//! The rule by which deliveries change, and its conditions.

use super::{Command, Delivery, Event, Facts, Illegal, ParkReason, Signed, Transition};
use crate::message::Attempt;
use crate::receipt::{Outcome, Receipt};
use crate::time::Timestamp;

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

/// A new epoch. Where another effect is allowed what was signed before counts no more. A late `Done` has left the discard behind: nothing
/// could restore it first.
fn redriven(
    current: Option<&Delivery>,
    lease_until: Timestamp,
    allow_duplicate: bool,
    overdue_ms: u64,
) -> Result<Delivery, Illegal> {
    let from = current.ok_or(Illegal::Absent)?;
    match from.command {
        _ if from.is_done() && !allow_duplicate => return Err(Illegal::AlreadyDone),
        Command::Discarded { .. } if !from.is_done() => return Err(Illegal::Discarded),
        _ => {}
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
