//! The audit: what named operators did, or were refused, one row each (I11).
//!
//! The row is written before the act and ended after it, not in the transaction of the state that changes. An act touches more than that one
//! transaction (upstream is called, the broker confirms), and a refused one has none. So there is never an act without a row, whatever
//! dies in between; a row that still says [`ActResult::Begun`] belongs to an act whose process ended, or lost its database, in the middle of it.
//! Whether it took hold is in the delivery's history then, whose line is written in the transaction of the state and names the operator.
//!
//! An order about dead letters is one row however many letters it selects; what became of each is kept with the letter, which names the
//! operator and the reason too.
//!
//! What operators do at upstream and downstream, which keep no audit, those services tell ([`ToldAct`]) over the receipts queue, and it is a row
//! here too.

use async_trait::async_trait;
use uuid::Uuid;

use super::PortError;
use crate::time::Timestamp;

/// Bytes of an operator's name that are kept.
pub const BY_MAX: usize = 64;
/// Bytes of a reason that are kept.
pub const REASON_MAX: usize = 500;
/// Bytes of what an act is about, and of any other name in it, that are kept.
pub const GIVEN_MAX: usize = 200;
/// Bytes of what became of an act that are kept.
pub const DETAIL_MAX: usize = 1_000;
/// The service that writes the audit; what it does itself stands under this name.
pub const CALLBACK: &str = "callback";

/// What an operator can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Act {
    /// Send a delivery again, in a new epoch.
    Redrive,
    /// Leave a delivery for a human.
    Park,
    /// Have nothing more done about a delivery.
    Discard,
    /// Take a discard back.
    Restore,
    /// Send dead letters to their work queue again.
    RedriveDeadLetters,
    /// Put dead letters away for good.
    DiscardDeadLetters,
    /// Look at the bodies of dead letters.
    RevealDeadLetters,
    /// Stop handling a subscription, at downstream.
    Pause,
    /// Go on with it.
    Resume,
    /// Have a refused row of the outbox published again, at upstream.
    Release,
    /// Look at the body of a stored message, at upstream.
    RevealMessage,
}

impl Act {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Redrive,
        Self::Park,
        Self::Discard,
        Self::Restore,
        Self::RedriveDeadLetters,
        Self::DiscardDeadLetters,
        Self::RevealDeadLetters,
        Self::Pause,
        Self::Resume,
        Self::Release,
        Self::RevealMessage,
    ];
    /// Those of callback itself.
    pub const OF_CALLBACK: [Self; 7] = [
        Self::Redrive,
        Self::Park,
        Self::Discard,
        Self::Restore,
        Self::RedriveDeadLetters,
        Self::DiscardDeadLetters,
        Self::RevealDeadLetters,
    ];

    /// The word used in the database, in JSON and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Redrive => "redrive",
            Self::Park => "park",
            Self::Discard => "discard",
            Self::Restore => "restore",
            Self::RedriveDeadLetters => "redrive_dead_letters",
            Self::DiscardDeadLetters => "discard_dead_letters",
            Self::RevealDeadLetters => "reveal_dead_letters",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Release => "release",
            Self::RevealMessage => "reveal_message",
        }
    }
}

/// How an act stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ActResult {
    /// Written down, and not ended yet: it is under way, or its process died.
    Begun,
    /// It took hold.
    Done,
    /// Nothing changed, for a reason that is the operator's to mend.
    Refused,
    /// Something was away; the same act may be tried again.
    Failed,
}

impl ActResult {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Begun, Self::Done, Self::Refused, Self::Failed];

    /// The word used in the database, in JSON and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }

    /// The reverse of [`Self::as_str`].
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|result| result.as_str() == word)
    }
}

/// An act that is about to be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAct {
    /// Who wants it.
    pub by: String,
    /// What.
    pub act: Act,
    /// About which message, or what else it is about, as it was asked.
    pub target: String,
    /// For which subscription; empty: all.
    pub subscription: String,
    /// Why; may be empty.
    pub reason: String,
}

impl NewAct {
    /// The same, each text cut to what the audit keeps.
    #[must_use]
    pub fn clipped(&self) -> Self {
        Self {
            by: clipped(self.by.trim(), BY_MAX),
            act: self.act,
            target: clipped(&self.target, GIVEN_MAX),
            subscription: clipped(&self.subscription, GIVEN_MAX),
            reason: clipped(self.reason.trim(), REASON_MAX),
        }
    }
}

/// An act at a service that keeps no audit, as that service tells it: once when it is about to be tried, and once when it has ended. Either may
/// come first, again or never; both are whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToldAct {
    /// Its own id: each act is one row, however often it is told.
    pub id: Uuid,
    /// Which service: `upstream` or `downstream`.
    pub service: String,
    /// The configured name of that service, which all its replicas share.
    pub service_name: String,
    /// Who wanted it; empty where nobody is asked who calls, and the caller does not say.
    pub by: String,
    /// The word of an [`Act`], or of one that a newer service knows.
    pub act: String,
    /// About which message, or what else it is about.
    pub target: String,
    /// For which subscription; may be empty.
    pub subscription: String,
    /// Why; may be empty.
    pub reason: String,
    /// When it was begun, by that service's clock.
    pub at: Timestamp,
    /// When it ended, by the same clock; none while it is begun.
    pub ended_at: Option<Timestamp>,
    /// How it stands.
    pub result: ActResult,
    /// What became of it, for a human; may be empty.
    pub detail: String,
}

impl ToldAct {
    /// The same, each text cut to what the audit keeps.
    #[must_use]
    pub fn clipped(self) -> Self {
        Self {
            service: clipped(&self.service, GIVEN_MAX),
            service_name: clipped(&self.service_name, GIVEN_MAX),
            by: clipped(self.by.trim(), BY_MAX),
            act: clipped(&self.act, GIVEN_MAX),
            target: clipped(&self.target, GIVEN_MAX),
            subscription: clipped(&self.subscription, GIVEN_MAX),
            reason: clipped(self.reason.trim(), REASON_MAX),
            detail: clipped(&self.detail, DETAIL_MAX),
            ..self
        }
    }
}

/// As much of a text as fits into so many bytes.
#[must_use]
pub fn clipped(text: &str, bytes: usize) -> String {
    text[..text.floor_char_boundary(bytes)].to_owned()
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// Ascending in the order of writing; never used twice.
    pub number: u64,
    /// When it was begun: by MSG DB's clock, and what was told by the clock of the service that told it.
    pub at: Timestamp,
    /// When it ended, by the same clock; none while it is begun.
    pub ended_at: Option<Timestamp>,
    /// Who wanted it.
    pub by: String,
    /// The word of an [`Act`], or of one that a newer callback knows.
    pub act: String,
    /// About which message, or what else it was about.
    pub target: String,
    /// For which subscription; empty: all.
    pub subscription: String,
    /// Why; may be empty.
    pub reason: String,
    /// How it stands.
    pub result: ActResult,
    /// What became of it, for a human; may be empty.
    pub detail: String,
    /// Where it was done: [`CALLBACK`], `upstream` or `downstream`, as whoever told it says.
    pub service: String,
    /// The configured name of that service; empty for callback.
    pub service_name: String,
}

/// What to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Only this act's word.
    pub act: Option<String>,
    /// Only this operator's.
    pub by: Option<String>,
    /// Only about this.
    pub target: Option<String>,
    /// Only at this service.
    pub service: Option<String>,
    /// Only numbers below this one.
    pub before: Option<u64>,
}

/// The audit, in MSG DB. Rows are never changed once they are ended, and never deleted.
#[async_trait]
pub trait Audit: Send + Sync {
    /// Writes the row of an act that is about to be tried; its number.
    ///
    /// # Errors
    /// [`PortError`]; then the act must not be tried. After a lost answer a row may be there that stays begun.
    async fn begin(&self, act: &NewAct) -> Result<u64, PortError>;

    /// Ends a row; false when it was ended before or is not there, and then nothing changes.
    ///
    /// # Errors
    /// [`PortError`]; the same call may be repeated.
    async fn end(&self, number: u64, result: ActResult, detail: &str) -> Result<bool, PortError>;

    /// Writes down what other services told: one row for each id, however often and in whatever order it is told. A row that is ended stays
    /// as it is; one that is begun takes result, detail, end and target of its end. All of it or nothing.
    ///
    /// # Errors
    /// [`PortError`]; the same call may be repeated.
    async fn write_told(&self, acts: &[ToldAct]) -> Result<(), PortError>;

    /// Rows by filter, newest first.
    ///
    /// # Errors
    /// [`PortError`].
    async fn entries(&self, filter: &AuditFilter, limit: u32) -> Result<Vec<AuditEntry>, PortError>;
}
