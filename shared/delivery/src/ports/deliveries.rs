//! Callback's side: MSG DB, one row per message and subscription, plus probes and history.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::PortError;
use crate::id::{MessageId, SubscriptionName};
use crate::message::Attempt;
use crate::probe::{Lane, NextProbe, Probe};
use crate::receipt::ProbeAnswer;
use crate::state::{Command, Delivery, Event, Illegal, ParkReason, Signed};
use crate::time::Timestamp;

/// Names one delivery.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryKey {
    /// Which message.
    pub message_id: MessageId,
    /// For whom.
    pub subscription: SubscriptionName,
}

/// One event of one delivery. A batch may name a delivery several times; its events apply in order.
#[derive(Clone, Debug)]
pub struct Change<'a> {
    /// Which delivery.
    pub key: DeliveryKey,
    /// What happened.
    pub event: Event<'a>,
}

/// A line of a delivery's history: every transition that [`crate::state::next`] notes leaves one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryLine {
    /// When, by MSG DB's clock.
    pub at: Timestamp,
    /// The try concerned.
    pub attempt: Attempt,
    /// `resending`, `resent`, `parked`, `discarded`, `restored`, `done`, `failed`.
    pub what: String,
    /// The reason, for a human.
    pub detail: String,
}

impl HistoryLine {
    /// The line that a noted transition leaves, so that every adapter writes the same; `to` is the delivery as it then stands.
    #[must_use]
    pub fn of(event: &Event<'_>, to: &Delivery, at: Timestamp) -> Self {
        let (attempt, what, detail) = match (event, &to.command) {
            (Event::Signed(receipt), _) => match &to.signed {
                Signed::Failed { reason, detail, .. } => (receipt.attempt, "failed", format!("{}: {detail}", reason.as_str())),
                Signed::Done { .. } => (receipt.attempt, "done", String::new()),
                _ => (receipt.attempt, "resent", "redriven from the dead-letter queue".into()),
            },
            (Event::Redrive { note, .. }, _) => (to.attempt(), "resending", format!("redriven {note}").trim_end().to_owned()),
            (Event::ParkByOperator { note }, _) => (to.attempt(), "parked", note.clone()),
            (Event::Restore { note }, _) => (to.attempt(), "restored", note.clone()),
            (Event::Discard { note }, _) => (to.attempt(), "discarded", note.clone()),
            (Event::OrderResend { why, .. }, _) => (to.attempt(), "resending", why.to_string()),
            (_, Command::Resending { attempt, unknown_answers: 0, .. }) => (*attempt, "resending", String::new()),
            (_, Command::Resending { attempt, .. }) => (*attempt, "resending", ParkReason::UnknownId.as_str().into()),
            (_, Command::Parked { attempt, reason } | Command::Discarded { attempt, reason }) => {
                (*attempt, "parked", reason.as_str().into())
            }
            (_, Command::Resent { .. } | Command::None) => (to.attempt(), "resent", String::new()),
        };
        Self { at, attempt, what: what.into(), detail }
    }
}

/// What to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only these states (the words of [`state_word`]); empty: all.
    pub states: Vec<String>,
    /// Only this subscription.
    pub subscription: Option<SubscriptionName>,
    /// Continue after this key.
    pub after: Option<DeliveryKey>,
}

/// What one page of a walk over old deliveries came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Rows that are gone, with their histories.
    pub rows: u64,
    /// The last delivery that was looked at: the next page begins after it. None: there was nothing to look at.
    pub last: Option<DeliveryKey>,
}

/// How many deliveries stand where, for gauges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// By [`state_word`]; those that are done are not counted, and a state without deliveries is absent.
    pub states: BTreeMap<String, u64>,
    /// The parked ones by reason ([`ParkReason::as_str`]).
    pub parked: BTreeMap<String, u64>,
    /// When the oldest message was sent that a delivery in one of [`UNSIGNED`] is of.
    pub oldest_unsigned: Option<Timestamp>,
}

/// States in which neither the subscription nor callback has said a last word.
pub const UNSIGNED: [&str; 4] = ["processing", "retrying", "resending", "resent"];

/// The one word that sums a delivery up, in the database, in filters and in JSON. A failure is outdone by the order of a later try.
#[must_use]
pub fn state_word(delivery: &Delivery) -> &'static str {
    match (&delivery.signed, &delivery.command) {
        (Signed::Done { .. }, _) => "done",
        (_, Command::Parked { .. }) => "parked",
        (_, Command::Discarded { .. }) => "discarded",
        (Signed::Failed { attempt: failed, .. }, Command::Resent { attempt }) if failed < attempt => "resent",
        (Signed::Failed { attempt: failed, .. }, Command::Resending { attempt, .. }) if failed < attempt => "resending",
        (Signed::Failed { .. }, _) => "failed",
        (_, Command::Resending { .. }) => "resending",
        (Signed::Processing { .. }, _) => "processing",
        (Signed::Retrying { .. }, _) => "retrying",
        (Signed::Nothing, Command::Resent { .. } | Command::None) => "resent",
    }
}

/// MSG DB. Every time in it is by its own clock, so replicas of callback need not agree on theirs.
#[async_trait]
pub trait Deliveries: Send + Sync {
    /// MSG DB's clock.
    ///
    /// # Errors
    /// [`PortError`].
    async fn now(&self) -> Result<Timestamp, PortError>;

    /// Applies [`crate::state::next`] to each delivery, atomically per delivery against concurrent callers, and appends the history lines of
    /// noted transitions in the same transaction. Answers in order: the delivery as it now stands, or why the event did not apply.
    ///
    /// # Errors
    /// [`PortError`]; then nothing was written, or the same batch may be applied again.
    async fn apply(&self, changes: &[Change<'_>]) -> Result<Vec<Result<Option<Delivery>, Illegal>>, PortError>;

    /// The rows of these deliveries, in order; one query.
    ///
    /// # Errors
    /// [`PortError`].
    async fn look_up(&self, keys: &[DeliveryKey]) -> Result<Vec<Option<Delivery>>, PortError>;

    /// Up to `limit` deliveries whose `due_at` has passed, oldest first.
    ///
    /// # Errors
    /// [`PortError`].
    async fn overdue(&self, limit: u32) -> Result<Vec<(DeliveryKey, Delivery)>, PortError>;

    /// Deliveries by filter, ordered by key.
    ///
    /// # Errors
    /// [`PortError`].
    async fn list(&self, filter: &Filter, limit: u32) -> Result<Vec<(DeliveryKey, Delivery)>, PortError>;

    /// How many deliveries stand where; each figure is counted up to `most`, so that the cost is bounded.
    ///
    /// # Errors
    /// [`PortError`].
    async fn counts(&self, most: u32) -> Result<Counts, PortError>;

    /// All deliveries of one message, ordered by subscription.
    ///
    /// # Errors
    /// [`PortError`].
    async fn of_message(&self, id: MessageId) -> Result<Vec<(DeliveryKey, Delivery)>, PortError>;

    /// The history of one delivery, oldest first.
    ///
    /// # Errors
    /// [`PortError`].
    async fn history(&self, key: &DeliveryKey) -> Result<Vec<HistoryLine>, PortError>;

    /// The recent probes of each lane (at least the last 64), ascending by number; in the order of `lanes`.
    ///
    /// # Errors
    /// [`PortError`].
    async fn probes(&self, lanes: &[Lane]) -> Result<Vec<Vec<Probe>>, PortError>;

    /// Stores a probe before it is published. False: another replica has just stored this number.
    ///
    /// # Errors
    /// [`PortError`].
    async fn store_probe(&self, lane: &Lane, probe: NextProbe) -> Result<bool, PortError>;

    /// Notes answers; those of unknown probes and repeats change nothing.
    ///
    /// # Errors
    /// [`PortError`].
    async fn probes_answered(&self, answers: &[ProbeAnswer]) -> Result<(), PortError>;

    /// Looks at the `limit` lowest keys after `after` of messages that were minted before `before`, and deletes those that are done or
    /// discarded, with their histories. What is open or parked stays, whatever its age. [`Self::forgotten_before`] is moved on to `before`
    /// first, and only ever forward.
    ///
    /// A message's age is that of its id, by its upstream's clock. Deliveries that somebody works at may be left to a later walk.
    ///
    /// # Errors
    /// [`PortError`]: the same page may be asked for again.
    async fn delete_settled(&self, before: Timestamp, after: Option<&DeliveryKey>, limit: u32) -> Result<Deleted, PortError>;

    /// Settled deliveries of messages minted before this time may have been deleted, by any replica: that one of them is not there
    /// proves nothing. The start of time if nothing was ever deleted.
    ///
    /// # Errors
    /// [`PortError`].
    async fn forgotten_before(&self) -> Result<Timestamp, PortError>;
}
