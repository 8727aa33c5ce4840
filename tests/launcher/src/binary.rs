//! Where cargo puts what it builds.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// How to build everything that tests start.
const BUILD: &str = "cargo build --workspace --bins --examples --features countersign-boot/failpoints";

/// The path of one of the workspace's binaries or examples, as built in the profile of the program that asks.
///
/// # Errors
/// When it has not been built; the error says how to.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("finding the path of this program")?;
    let profile = profile_directory(&own)?;
    for folder in [profile.to_path_buf(), profile.join("examples")] {
        let candidate = folder.join(name);
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    bail!("`{name}` is not in {} nor in its examples folder; build it first: {BUILD}", profile.display())
}

/// `target/debug` of a program in `target/debug`, `target/debug/deps` or `target/debug/examples`.
pub(crate) fn profile_directory(program: &Path) -> anyhow::Result<&Path> {
    let folder = program.parent().context("this program has no directory")?;
    match folder.file_name().and_then(|name| name.to_str()) {
        Some("deps" | "examples") => folder.parent().context("no directory above"),
        _ => Ok(folder),
    }
}
