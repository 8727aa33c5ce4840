//! What the protocol needs from outside, as traits: each has an adapter and an in-memory double, held together by one suite.
//!
//! The signatures await; nothing in this crate does.

pub mod archive;
pub mod audit;
pub mod broker;
pub mod claims;
pub mod dead_letters;
pub mod deliveries;
pub mod events;
pub mod messages;
pub mod outbox;
pub mod pauses;
pub mod reconciliation;
pub mod stored;

use uuid::Uuid;

use crate::time::Timestamp;

/// A wall clock, for stamping what is sent. Verdicts never compare two machines' clocks.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// A source of fresh identities.
pub trait Ids: Send + Sync + std::fmt::Debug {
    /// A new UUIDv7.
    fn uuid(&self) -> Uuid;
}

/// Why a port did not do what it was asked, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Nothing happened; the same call may succeed later.
    #[error("{0} is not available")]
    Unavailable(&'static str, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// It may have happened or not; ask before doing it again, unless it is idempotent.
    #[error("the answer of {0} was lost")]
    OutcomeUnknown(&'static str, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// It will fail again: wrong schema, wrong permission, a bug.
    #[error("{0} refused")]
    Refused(&'static str, #[source] Box<dyn std::error::Error + Send + Sync>),
}

impl PortError {
    /// Whether trying again later may help.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(..) | Self::OutcomeUnknown(..))
    }
}
