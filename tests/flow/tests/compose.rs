//! What is shipped for containers: `deploy/docker/compose.yaml` and all that it mounts, and the Dockerfile.
//!
//! Nothing here starts a container. [`rules`] and [`dockerfile`] read the files; [`stack`] starts real servers with the files mounted into them,
//! our programs with exactly the environment, files and commands of the compose file, and sends a message through.

mod dockerfile;
mod file;
mod rules;
mod stack;

use std::path::{Path, PathBuf};

/// A path of the repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}
