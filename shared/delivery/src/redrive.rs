//! Whether a dead letter may be sent to its work queue again: by what it says itself, and by what callback knows of its delivery.
//!
//! A wrong yes costs a delivery that the subscription's guard absorbs; it must never touch another message's delivery.

use crate::fingerprint::Fingerprint;
use crate::message::Attempt;
use crate::state::{Command, Delivery, Signed};
use crate::time::Timestamp;

/// Epochs beyond this are nonsense, not history.
pub const EPOCH_MAX: u32 = 1_000_000_000;

/// What a letter says of the message in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dead {
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
    /// The try that died.
    pub attempt: Attempt,
    /// The message's own `sent_at`.
    pub sent_at: Timestamp,
    /// The epoch in which an operator had allowed a further effect; 0: none.
    pub effect_epoch: u32,
    /// Whether it died because its id is known under another fingerprint.
    pub conflict: bool,
}

/// Why a letter is not sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its delivery is done meanwhile: the letter is settled.
    #[error("it is done meanwhile")]
    AlreadyDone,
    /// Its id is known under another content.
    #[error(
        "its id is known under another content: find out which of the two is right; send the event anew as another message, or discard it"
    )]
    OtherContent,
    /// An operator has discarded its delivery.
    #[error("its delivery is discarded: restore that first")]
    Discarded,
    /// A later try is on its way.
    #[error("epoch {0} of it is under way: if that one dies too, it leaves a letter of its own")]
    UnderWay(u32),
    /// Older than the guard's memory of what it has done.
    #[error(
        "it is older than the guard remembers ({0} ms) and would be refused as stale: if you know that it had no effect, send it \
         anew as another message"
    )]
    Forgotten(u64),
    /// Its epoch, or that of its delivery, cannot be.
    #[error("its epoch is nonsense: send the event anew, or discard it")]
    Nonsense,
}

/// Decides about one letter. `memory_ms`: how long the guard remembers what it has done.
///
/// # Errors
/// [`Refusal`].
pub fn may_redrive(dead: &Dead, delivery: Option<&Delivery>, memory_ms: u64, now: Timestamp) -> Result<(), Refusal> {
    match delivery {
        Some(delivery) if delivery.facts.fingerprint != dead.fingerprint => return Err(Refusal::OtherContent),
        Some(delivery) if delivery.is_done() => return Err(Refusal::AlreadyDone),
        Some(Delivery { command: Command::Discarded { .. }, .. }) => return Err(Refusal::Discarded),
        Some(delivery) if is_under_way(delivery, dead.attempt) => return Err(Refusal::UnderWay(delivery.attempt().epoch)),
        None if dead.conflict => return Err(Refusal::OtherContent),
        Some(_) | None => {}
    }
    if next_epoch(dead, delivery) > EPOCH_MAX {
        return Err(Refusal::Nonsense);
    }
    if effect_epoch(dead, delivery) == 0 && now.millis_since(dead.sent_at) >= memory_ms {
        return Err(Refusal::Forgotten(memory_ms));
    }
    Ok(())
}

/// The further effect that the copy is for: what an operator has allowed since the letter died counts as well.
#[must_use]
pub fn effect_epoch(dead: &Dead, delivery: Option<&Delivery>) -> u32 {
    delivery.map_or(0, |delivery| delivery.effect_epoch).max(dead.effect_epoch)
}

/// The epoch that a letter gets: above all that it, or its delivery, has been through.
#[must_use]
pub fn next_epoch(dead: &Dead, delivery: Option<&Delivery>) -> u32 {
    let known = delivery.map_or(0, |delivery| delivery.attempt().epoch);
    known.max(dead.attempt.epoch).saturating_add(1)
}

/// Whether a later epoch than the letter's was sent and has not failed. An order whose answer is not known does not count: whoever gave it may
/// have fallen silent before it sent anything.
fn is_under_way(delivery: &Delivery, died: Attempt) -> bool {
    let failed = matches!(&delivery.signed, Signed::Failed { attempt, .. } if *attempt >= delivery.attempt());
    let sent = matches!(delivery.command, Command::Resent { .. });
    sent && !failed && delivery.attempt().epoch > died.epoch
}
