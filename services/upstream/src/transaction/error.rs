//! How a caller's transaction can fail.

use crate::refusal::Refusal;

/// Why a transaction was not committed, or may not have been. `E` is what the caller's work says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransactionError<E> {
    /// The work itself said no: everything is rolled back.
    #[error("the work of the transaction failed, everything is rolled back: {0}")]
    Work(E),
    /// It could not begin, took too long, or could not be committed: everything is rolled back.
    #[error("everything is rolled back: {0}")]
    RolledBack(Refusal),
    /// The answer to COMMIT was lost, and is not found out yet. If it was committed, its messages are published.
    #[error(
        "whether the transaction was committed is not known: {0}; run it again with the same idempotency keys, which tell what is there"
    )]
    Unknown(String),
}

impl<E> TransactionError<E> {
    /// Whether the same transaction may succeed later. Not for [`Self::Work`], whose meaning is the caller's.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Work(_) => false,
            Self::RolledBack(refusal) => refusal.is_transient(),
            Self::Unknown(_) => true,
        }
    }
}
