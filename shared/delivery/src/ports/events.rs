//! Events: what became of deliveries that did not go the straight way, for whoever listens.
//!
//! A row is written in the transaction of the transition it tells of, taken with a lease, published, and then deleted: at least once, in
//! the order of writing as far as one callback publishes them. Listeners recognise a repetition by its id.

use async_trait::async_trait;

use super::PortError;
use super::deliveries::{DeliveryKey, HistoryLine};
use crate::id::UpstreamName;
use crate::message::Attempt;
use crate::state::{Command, Delivery, Event, ParkReason, Signed};
use crate::time::Timestamp;

/// What happened, as listeners choose by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum What {
    /// It is left for a human.
    Parked,
    /// It was sent again, or redriven from the dead-letter queue.
    Resent,
    /// It is signed for after all: after an order to resend it, or after it was parked or discarded.
    Recovered,
    /// An operator wants nothing more done about it.
    Discarded,
    /// An operator took that back.
    Restored,
}

impl What {
    /// Every one.
    pub const ALL: [Self; 5] = [Self::Parked, Self::Resent, Self::Recovered, Self::Discarded, Self::Restored];

    /// The word used in routing keys and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Parked => "parked",
            Self::Resent => "resent",
            Self::Recovered => "recovered",
            Self::Discarded => "discarded",
            Self::Restored => "restored",
        }
    }

    /// The reverse of [`Self::as_str`].
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|what| what.as_str() == word)
    }

    /// What a noted transition tells listeners, if anything; `to` is the delivery as it then stands, `line` what its history says of it.
    #[must_use]
    pub fn of(event: &Event<'_>, to: &Delivery, line: &HistoryLine) -> Option<Self> {
        match (event, &to.signed, &to.command) {
            (Event::Signed(_), Signed::Done { .. }, _) => Some(Self::Recovered),
            // Redriven at downstream, and failed again: parked anew.
            (Event::Signed(receipt), Signed::Failed { .. }, Command::Parked { attempt, reason: ParkReason::Failed(_) })
                if *attempt == receipt.attempt =>
            {
                Some(Self::Parked)
            }
            (Event::Signed(_), Signed::Failed { .. }, _) => None,
            _ => Self::ALL.into_iter().find(|what| what.as_str() == line.what),
        }
    }
}

/// One event as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// What happened.
    pub what: What,
    /// Who sent the message.
    pub upstream: UpstreamName,
    /// The try concerned.
    pub attempt: Attempt,
    /// For a human, as in the history; never a payload. May be empty.
    pub reason: String,
    /// When, by MSG DB's clock.
    pub at: Timestamp,
}

impl Happening {
    /// What a noted transition leaves for listeners, so that every adapter writes the same.
    #[must_use]
    pub fn of(event: &Event<'_>, to: &Delivery, line: &HistoryLine) -> Option<Self> {
        Some(Self {
            what: What::of(event, to, line)?,
            upstream: to.facts.upstream.clone(),
            attempt: line.attempt,
            reason: line.detail.clone(),
            at: line.at,
        })
    }
}

/// One event as it is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The number of its row; with the message's id it names the event.
    pub number: u64,
    /// Of which delivery.
    pub key: DeliveryKey,
    /// What happened.
    pub happening: Happening,
}

impl Recorded {
    /// The id by which listeners recognise a repetition.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}", self.key.message_id, self.number)
    }
}

/// MSG DB's events that have not been published. [`super::deliveries::Deliveries::apply`] of the same MSG DB writes them.
#[async_trait]
pub trait Events: Send + Sync {
    /// Takes up to `limit` events that are nobody's, lowest numbers first, for `lease_ms`; nobody else gets them meanwhile.
    ///
    /// # Errors
    /// [`PortError`]: what was taken then comes again when the lease is over.
    async fn take(&self, lease_ms: u64, limit: u32) -> Result<Vec<Recorded>, PortError>;

    /// Deletes events that were published.
    ///
    /// # Errors
    /// [`PortError`]: they come again when their lease is over.
    async fn published(&self, events: &[Recorded]) -> Result<(), PortError>;

    /// Deletes events that are `keep` or more numbers behind the newest; how many. For when nothing can be published for very long.
    ///
    /// # Errors
    /// [`PortError`].
    async fn drop_oldest(&self, keep: u64) -> Result<u64, PortError>;
}
