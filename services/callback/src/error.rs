//! What can go wrong in callback, by what can be done about it.

use countersign_delivery::ports::PortError;
use countersign_telemetry::with_sources;

/// Why a step did not come to its end. Nothing of it is acked then, and it is done again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// MSG DB did not do what it was asked.
    #[error("MSG DB: {}", with_sources(.0))]
    Database(#[source] PortError),
    /// A consumer cannot be opened.
    #[error("the consumer of {queue}: {}", with_sources(.source))]
    Consumer {
        /// Of this queue.
        queue: String,
        /// What the broker's adapter said.
        source: PortError,
    },
    /// The broker did not confirm everything that had to be published.
    #[error("the broker did not confirm every {what}: {why}")]
    NotConfirmed {
        /// What was published.
        what: &'static str,
        /// The first refusal.
        why: String,
    },
    /// As many dead letters wait as may.
    #[error(
        "{most} dead letters wait for an operator (callback.max_dead_letters): no more are taken in, they stay in their queues; look at them \
         with `countersign dead list`, redrive or discard them, or raise the bound"
    )]
    Full {
        /// The bound.
        most: u64,
    },
}

impl Error {
    /// Whether doing the same again later may help.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Database(source) | Self::Consumer { source, .. } => source.is_transient(),
            Self::NotConfirmed { .. } | Self::Full { .. } => true,
        }
    }
}

impl From<PortError> for Error {
    fn from(source: PortError) -> Self {
        Self::Database(source)
    }
}
