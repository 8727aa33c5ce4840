//! Packages for programs in Node.js, under cargo's target directory.
//!
//! They are brought once for each content of a `package.json`, by whoever comes first; the others wait. **Invariant:** a directory without
//! its file `complete` is not used: who finds one makes it anew. There is no lock file, which would name a host: `package.json` pins what it
//! names, and npm chooses what those need.

use std::fs::{copy, create_dir_all, read_to_string, remove_dir_all, write};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tokio::process::Command;

use crate::binary::profile_directory;
use crate::python::{lock, run};

/// How long npm may take; below what a test may take.
const BRING: Duration = Duration::from_secs(200);

/// The directory whose `node_modules` has what this `package.json` names. No script of a package is run.
///
/// # Errors
/// When npm, or a package, is not to be had in time; the error says what to do.
pub async fn node_packages(package_json: &Path) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("finding the path of this program")?;
    let target = profile_directory(&own)?.parent().context("no directory above the profile's")?;
    let wanted = read_to_string(package_json).with_context(|| format!("reading {}", package_json.display()))?;
    let mut hasher = DefaultHasher::new();
    wanted.hash(&mut hasher);
    let packages = target.join("node").join(format!("{:016x}", hasher.finish()));
    create_dir_all(target.join("node"))?;
    let _lock = lock(&packages.with_extension("lock")).await?;
    if !packages.join("complete").is_file() {
        bring(&packages, package_json).await?;
    }
    Ok(packages)
}

async fn bring(packages: &Path, package_json: &Path) -> anyhow::Result<()> {
    if packages.exists() {
        remove_dir_all(packages).with_context(|| format!("removing {}", packages.display()))?;
    }
    create_dir_all(packages)?;
    copy(package_json, packages.join("package.json"))?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-package-lock", "--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund", "--loglevel=error"]);
    run(npm.current_dir(packages), BRING).await.with_context(|| {
        format!(
            "the packages in {} cannot be had; see whether npm is there (Debian: apt-get install npm) and whether the registry that \
             `npm config get registry` names can be reached, and run again",
            package_json.display()
        )
    })?;
    write(packages.join("complete"), "")?;
    Ok(())
}
