//! Dead letters: copies that went to a dead-letter queue or to quarantine, kept until an operator has dealt with them.
//!
//! A letter is one copy, whole: its body, and the rest of it packed into a text that only the wire's own code reads.

use std::collections::BTreeSet;

use async_trait::async_trait;
use bytes::Bytes;

use super::PortError;
use crate::fingerprint::Fingerprint;
use crate::id::SubscriptionName;
use crate::time::Timestamp;

/// What letters are found by. Nothing of it need be valid: a letter may be something that nobody could read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Label {
    /// AMQP `message_id`; may be empty.
    pub message_id: String,
    /// AMQP `app_id`: who sent it; may be empty.
    pub upstream: String,
    /// AMQP `type`: the business type; may be empty.
    pub kind: String,
    /// Its fingerprint, hexadecimal; may be empty.
    pub fingerprint: String,
    /// Why it died; may be empty.
    pub reason: String,
    /// When it died; none for what does not say.
    pub died_at: Option<Timestamp>,
}

/// A letter that is to be taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewLetter {
    /// Equal for two deliveries of one copy, and for no others.
    pub identity: Fingerprint,
    /// Whose dead-letter queue it came from; none: quarantine.
    pub subscription: Option<SubscriptionName>,
    /// What it is found by.
    pub label: Label,
    /// The copy without its body.
    pub packed: String,
    /// Its body.
    pub body: Bytes,
}

/// What an operator did about a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closing {
    /// Who.
    pub by: String,
    /// Why, for a human.
    pub reason: String,
    /// The epoch in which it was sent to its work queue again; none: it was discarded.
    pub epoch: Option<u32>,
}

/// How a letter stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It waits for an operator.
    Open,
    /// Nobody acted on it, and its delivery is done meanwhile: nothing is left to do.
    Settled,
    /// It was sent to its work queue again, or discarded.
    Closed {
        /// By whom, why and how.
        closing: Closing,
        /// When, by MSG DB's clock.
        at: Timestamp,
    },
}

impl State {
    /// The words of all states, as filters have them.
    pub const WORDS: [&str; 4] = ["open", "settled", "redriven", "discarded"];

    /// The word used in filters, in JSON and on the wire.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Open => Self::WORDS[0],
            Self::Settled => Self::WORDS[1],
            Self::Closed { closing: Closing { epoch: Some(_), .. }, .. } => Self::WORDS[2],
            Self::Closed { closing: Closing { epoch: None, .. }, .. } => Self::WORDS[3],
        }
    }
}

/// A letter as it is kept, without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Its own number; larger for what came later.
    pub number: u64,
    /// Whose dead-letter queue it came from; none: quarantine.
    pub subscription: Option<SubscriptionName>,
    /// The copy without its body.
    pub packed: String,
    /// Size of its body, bytes.
    pub body_bytes: u64,
    /// When it was taken in, by MSG DB's clock.
    pub taken_in_at: Timestamp,
    /// How it stands.
    pub state: State,
}

/// Where letters came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// Anywhere.
    #[default]
    Anywhere,
    /// The dead-letter queue of one subscription.
    Of(SubscriptionName),
    /// Quarantine.
    Quarantine,
}

/// Which letters. What is empty or none selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Where they came from.
    pub place: Place,
    /// Any of these words of [`State::WORDS`].
    pub states: BTreeSet<&'static str>,
    /// Any of these reasons.
    pub reasons: BTreeSet<&'static str>,
    /// This business type.
    pub kind: String,
    /// Any of these messages.
    pub message_ids: BTreeSet<String>,
    /// Of this sender.
    pub upstream: String,
    /// Died at or after. What does not say when it died is selected by no time.
    pub died_after: Option<Timestamp>,
    /// Died before, likewise.
    pub died_before: Option<Timestamp>,
}

/// Where letters are kept, beside the deliveries that they belong to.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// Takes letters in, open; what is there already stays as it is. Answers how many are new.
    ///
    /// # Errors
    /// [`PortError`]; the same letters may be taken in again.
    async fn take_in(&self, letters: &[NewLetter]) -> Result<u64, PortError>;

    /// How many letters nobody has acted on, settled ones included; counted up to `most`.
    ///
    /// # Errors
    /// [`PortError`].
    async fn waiting(&self, most: u64) -> Result<u64, PortError>;

    /// The largest number of any letter; 0: there is none.
    ///
    /// # Errors
    /// [`PortError`].
    async fn latest(&self) -> Result<u64, PortError>;

    /// Letters by filter with numbers above `after`, ascending; `limit` at most.
    ///
    /// # Errors
    /// [`PortError`].
    async fn list(&self, filter: &Filter, after: u64, limit: u32) -> Result<Vec<Letter>, PortError>;

    /// The bodies of these letters, in order; none for one that is not there any more.
    ///
    /// # Errors
    /// [`PortError`].
    async fn bodies(&self, numbers: &[u64]) -> Result<Vec<Option<Bytes>>, PortError>;

    /// Writes down what an operator did about letters. What was discarded stays so.
    ///
    /// # Errors
    /// [`PortError`]; the same may be written again.
    async fn close(&self, closed: &[(u64, Closing)]) -> Result<(), PortError>;

    /// Deletes what nobody needs any more: letters closed before `before`, and settled ones whose message was minted before then: the age by
    /// which its delivery goes too, and without that nobody could tell that the letter is settled. At most `limit`, the oldest first; answers
    /// how many.
    ///
    /// # Errors
    /// [`PortError`].
    async fn delete_settled(&self, before: Timestamp, limit: u32) -> Result<u64, PortError>;
}
