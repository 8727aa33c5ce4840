//! What a named operator does about deliveries: one file an act.
//!
//! Each act is one row of the audit (I11): begun before anything is looked at, so that what is refused has its row too, and ended with what
//! became of it. An act whose row cannot be written is not tried. What can fail in between: this process (the row stays begun; the states of
//! all deliveries of the act change in one transaction, with lines of history that name the operator, and a redrive's order goes on from there as
//! any other does); MSG DB (the act has failed, or its end is missing from the audit, and the log has it). Acts on dead letters have their
//! [`row`] in the same audit.

mod discard;
pub mod forbidden;
mod park;
mod redrive;
mod restore;
pub mod row;
mod rows;

use countersign_delivery::ports::PortError;
use countersign_delivery::ports::audit::{Act, ActResult, NewAct};
pub use countersign_delivery::ports::audit::{BY_MAX, REASON_MAX};
use countersign_delivery::state::Illegal;
use countersign_delivery::{MessageId, SubscriptionName};
use countersign_telemetry::{names, with_sources};

use self::row::Row;
use crate::desk::Desk;

/// An act as it was asked for; nothing of it is checked yet.
#[derive(Clone, Debug)]
pub struct Ask {
    /// What.
    pub act: Act,
    /// About which message.
    pub message_id: String,
    /// Whose delivery; empty: all that the act can be about.
    pub subscription: String,
    /// Who wants it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Of a redrive: whether its effect may happen a second time.
    pub allow_duplicate: bool,
}

/// What became of one delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActOutcome {
    /// Whose.
    pub subscription: SubscriptionName,
    /// The word for it, as the wire has it.
    pub result: &'static str,
    /// For a human; may be empty.
    pub detail: String,
}

/// Why nothing was done at all.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It cannot be asked like that.
    #[error("{0}")]
    Input(String),
    /// There is no such delivery.
    #[error("{0}")]
    Unknown(String),
    /// It does not apply as things stand.
    #[error("{0}")]
    DoesNotApply(String),
    /// MSG DB did not do its part.
    #[error("MSG DB: {}", with_sources(.0))]
    Database(#[from] PortError),
}

/// An act whose words have been checked.
struct Checked {
    id: MessageId,
    subscription: Option<SubscriptionName>,
    by: String,
    reason: String,
    allow_duplicate: bool,
}

impl Checked {
    /// Who and why, as history keeps it.
    fn note(&self) -> String {
        let risk = if self.allow_duplicate { ", who allows a second effect" } else { "" };
        let why = if self.reason.is_empty() { String::new() } else { format!(": {}", self.reason) };
        format!("by {}{risk}{why}", self.by)
    }
}

/// Does what was asked; results by subscription, or why nothing was done. Counted, logged and audited either way.
///
/// # Errors
/// [`Refusal`].
pub async fn operate(desk: &Desk, ask: &Ask) -> Result<Vec<ActOutcome>, Refusal> {
    let row = match Row::begin(desk, &row_of(ask)).await {
        Ok(row) => row,
        Err(error) => {
            tell(ask, ActResult::Failed, "it could not be written into the audit, so it was not tried");
            return Err(error.into());
        }
    };
    let outcome = carry_out(desk, ask).await;
    let (result, detail) = ended(&outcome);
    tell(ask, result, &detail);
    row.end(desk, result, &detail).await;
    outcome
}

async fn carry_out(desk: &Desk, ask: &Ask) -> Result<Vec<ActOutcome>, Refusal> {
    let checked = check(ask)?;
    match ask.act {
        Act::Redrive => redrive::redrive(desk, &checked).await,
        Act::Park => park::park(desk, &checked).await,
        Act::Discard => discard::discard(desk, &checked).await,
        Act::Restore => restore::restore(desk, &checked).await,
        Act::RedriveDeadLetters | Act::DiscardDeadLetters | Act::RevealDeadLetters => {
            Err(Refusal::Input(format!("{} is not about deliveries: order it of DeadLetterService", ask.act.as_str())))
        }
        Act::Pause | Act::Resume | Act::Release | Act::RevealMessage => {
            Err(Refusal::Input(format!("{} is not callback's: order it of upstream or downstream", ask.act.as_str())))
        }
    }
}

fn check(ask: &Ask) -> Result<Checked, Refusal> {
    let (by, reason) = (ask.by.trim(), ask.reason.trim());
    if by.is_empty() || by.len() > BY_MAX {
        return Err(Refusal::Input(format!("by: has {} bytes: say who does it, in 1 to {BY_MAX}", by.len())));
    }
    if reason.len() > REASON_MAX {
        return Err(Refusal::Input(format!("reason: has {} bytes: use at most {REASON_MAX}", reason.len())));
    }
    if ask.act == Act::Discard && reason.is_empty() {
        return Err(Refusal::Input("reason: say why nothing more is to be done about it".into()));
    }
    let id = MessageId::parse(&ask.message_id).map_err(|error| Refusal::Input(format!("message_id: {error}")))?;
    let named = (!ask.subscription.is_empty()).then(|| SubscriptionName::new(&ask.subscription)).transpose();
    let subscription = named.map_err(|error| Refusal::Input(format!("subscription: {error}")))?;
    Ok(Checked { id, subscription, by: by.to_owned(), reason: reason.to_owned(), allow_duplicate: ask.allow_duplicate })
}

/// The row as it is begun: the id in its one form where it is one.
fn row_of(ask: &Ask) -> NewAct {
    let target = MessageId::parse(&ask.message_id).map_or_else(|_| ask.message_id.clone(), |id| id.to_string());
    NewAct { by: ask.by.clone(), act: ask.act, target, subscription: ask.subscription.clone(), reason: ask.reason.clone() }
}

fn ended(outcome: &Result<Vec<ActOutcome>, Refusal>) -> (ActResult, String) {
    match outcome {
        Ok(outcomes) => {
            let word = |one: &ActOutcome| format!("{}: {}", one.subscription, one.result);
            (ActResult::Done, outcomes.iter().map(word).collect::<Vec<_>>().join(", "))
        }
        Err(refusal @ Refusal::Database(_)) => (ActResult::Failed, refusal.to_string()),
        Err(refusal) => (ActResult::Refused, refusal.to_string()),
    }
}

fn tell(ask: &Ask, result: ActResult, detail: &str) {
    let (act, word) = (ask.act.as_str(), result.as_str());
    metrics::counter!(names::OPERATOR_ACTS_TOTAL, "act" => act, "result" => word).increment(1);
    let Ask { message_id, subscription, by, reason, .. } = ask;
    tracing::info!(act, message_id, subscription, by, reason, result = word, detail, "an operator's act on deliveries");
}

/// The word for why an act does not apply to one delivery.
const fn word_of(illegal: Illegal) -> &'static str {
    match illegal {
        Illegal::AlreadyDone => "already_done",
        Illegal::Parked => "already_parked",
        Illegal::Discarded => "already_discarded",
        Illegal::NotDiscarded => "not_discarded",
        Illegal::OutOfDate | Illegal::SpokenSince | Illegal::Absent => "changed",
    }
}

/// What is said of an id without a row.
pub(crate) fn unknown(id: MessageId) -> String {
    format!(
        "callback knows nothing of message {id}: nobody has signed for it, and no resend was ordered; whether it was sent at all \
         only its upstream knows (GetMessage)"
    )
}
