//! Where a service gets its topology from.

use std::path::PathBuf;

use countersign_delivery::Topology;
use serde::{Deserialize, Serialize};

/// The section `[topology]` of every service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TopologySource {
    /// Path of `topology.toml`; none: the built-in default, which has one exchange and no subscription.
    pub file: Option<PathBuf>,
    /// Whether the service declares it at start. A convenience of the local default: elsewhere `countersign topology apply` alone declares.
    pub apply: bool,
}

impl Default for TopologySource {
    fn default() -> Self {
        Self { file: None, apply: true }
    }
}

/// Why there is no topology.
#[derive(Debug, thiserror::Error)]
pub enum TopologySourceError {
    /// The file cannot be read.
    #[error("topology.file {} cannot be read: {source}", path.display())]
    Unreadable {
        /// The path as configured.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Its content cannot be used.
    #[error("topology.file {} is refused: {source}", path.display())]
    Refused {
        /// The path as configured.
        path: PathBuf,
        /// Every problem found.
        source: countersign_delivery::topology::TopologyError,
    },
}

impl TopologySource {
    /// Reads and checks the file; the built-in default when none is named.
    ///
    /// # Errors
    /// [`TopologySourceError`] that names the file and every problem.
    pub fn load(&self) -> Result<Topology, TopologySourceError> {
        let Some(path) = self.file.clone() else { return Ok(Topology::default()) };
        let text =
            std::fs::read_to_string(&path).map_err(|source| TopologySourceError::Unreadable { path: path.clone(), source })?;
        Topology::from_toml(&text).map_err(|source| TopologySourceError::Refused { path, source })
    }
}
