//! Finding the programs of the servers, and what their starters have in common.

use std::path::{Path, PathBuf};

use anyhow::bail;

/// Looks on the `PATH` and then in `places`.
///
/// # Errors
/// When it is nowhere; the error names the script that installs `server`.
pub(crate) fn find_program(name: &str, places: impl IntoIterator<Item = PathBuf>, server: &str) -> anyhow::Result<PathBuf> {
    let found = on_path(name).or_else(|| places.into_iter().find(|place| place.is_file()));
    match found {
        Some(path) => Ok(path),
        None => bail!("`{name}` was not found; install it with: deploy/local/install {server}"),
    }
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|candidate| candidate.is_file())
}

/// The directories `parent/<prefix>*`, highest name first, so that the newest of several versions is taken.
pub(crate) fn folders(parent: &str, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = Path::new(parent).read_dir() else {
        return Vec::new();
    };
    let named = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
    let mut found: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(named).collect();
    found.sort();
    found.reverse();
    found
}
