//! Why an upstream could not be started.

use countersign_boot::topology::TopologySourceError;

/// Why an upstream could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no usable topology.
    #[error(transparent)]
    Topology(#[from] TopologySourceError),
    /// Topology, policy and section contradict each other. The text names the remedy.
    #[error("{0}")]
    Unsound(String),
    /// The database cannot be opened or prepared.
    #[error("the database of upstream cannot be used: correct [database], or mend what it says")]
    Store(#[from] countersign_store::Error),
    /// The broker's configuration cannot be used.
    #[error("the broker of upstream")]
    Broker(#[from] countersign_broker::Error),
    /// The gRPC server cannot be opened.
    #[error("the gRPC server of upstream")]
    Grpc(#[from] countersign_boot::Error),
}

impl Error {
    /// Whether starting again later may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Store(error) => error.is_transient(),
            Self::Broker(error) => error.is_transient(),
            Self::Topology(_) | Self::Unsound(_) | Self::Grpc(_) => false,
        }
    }
}
