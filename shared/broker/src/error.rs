//! What can go wrong with the broker, by what the caller can do.

use crate::state::DownReason;

/// Why a call to the broker came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot work; each problem with its remedy.
    #[error("the broker's configuration is not sound: {}", .0.join("; "))]
    Config(Vec<String>),
    /// There is no connection.
    #[error("the broker is not available: {0}")]
    Down(DownReason),
    /// The broker refused, in its own words; it will again.
    #[error("the broker refused: {}", .0.join("; "))]
    Refused(Vec<String>),
    /// The connection broke in the middle; what was asked may have happened.
    #[error("the connection to the broker broke")]
    Broke(#[source] lapin::Error),
}

impl Error {
    /// Whether trying again later may help.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Config(_) | Self::Refused(_) => false,
            Self::Down(reason) => reason.is_transient(),
            Self::Broke(_) => true,
        }
    }
}
