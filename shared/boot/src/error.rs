//! What can go wrong before and around a service.

use std::net::SocketAddr;
use std::path::PathBuf;

/// An error of the launch frame.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration cannot be used; each problem says what to do.
    #[error("configuration: {}", .0.join("; "))]
    Config(Vec<String>),
    /// A listening address cannot be opened.
    #[error("{key} = {address} cannot be opened ({source}): choose another address, or port 0 for a free one")]
    Listen {
        /// The configuration key: `http.listen` or `grpc.listen`.
        key: &'static str,
        /// The address asked for.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// A service may open one gRPC server only.
    #[error("the gRPC server is open already")]
    GrpcTwice,
    /// The file descriptor set given for reflection cannot be decoded.
    #[error("the file descriptor set for gRPC reflection is broken: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The file descriptor set says nothing of roles.
    #[error("the file descriptor set of the gRPC services is broken: {0}")]
    Descriptors(#[source] prost_reflect::DescriptorError),
    /// The file for `--addresses` cannot be written.
    #[error("--addresses {} cannot be written: {source}", path.display())]
    Addresses {
        /// The file asked for.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Logs, traces or metrics cannot be installed.
    #[error(transparent)]
    Telemetry(#[from] countersign_telemetry::Error),
    /// The threads or signal handlers of the process cannot be had.
    #[error("the runtime cannot start: {0}")]
    Runtime(#[from] std::io::Error),
}

impl Error {
    /// Whether the same call may succeed later without a human: only for an address that another process may give up.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse)
    }
}
