//! Why a downstream does not start.

use countersign_boot::topology::TopologySourceError;

/// Why a downstream does not start. None of it heals by waiting: servers that are away are waited for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The topology cannot be had.
    #[error(transparent)]
    Topology(#[from] TopologySourceError),
    /// Code or configuration and topology contradict each other.
    #[error("{}", .0.join("; "))]
    Unsound(Vec<String>),
    /// The broker's section cannot be used.
    #[error(transparent)]
    Broker(#[from] countersign_broker::Error),
    /// The address of gRPC cannot be had.
    #[error(transparent)]
    Grpc(#[from] countersign_boot::Error),
    /// The section of Redis cannot be used.
    #[error(transparent)]
    Redis(#[from] countersign_dedup::Error),
    /// The database refuses, or its section cannot be used.
    #[error("the database of the guards cannot be used: correct [database], or mend what it says")]
    Database(#[from] countersign_store::Error),
}

impl Error {
    /// Whether trying again later may help: never.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        false
    }
}
