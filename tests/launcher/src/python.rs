//! A Python with the packages that the shipped examples or the tests need, in a virtual environment under cargo's target directory.
//!
//! It is made once for each content of a list of requirements (`deploy/examples/requirements.txt`, `tests/tools.txt`) and each Python, by whoever comes first; the others
//! wait. **Invariant:** an environment without its file `complete` is not used: who finds one makes it anew.

use std::fs::{File, create_dir_all, read_to_string, remove_dir_all, write};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::process::Command;
use tokio::time::timeout;

use crate::binary::profile_directory;
use crate::wait_until;

/// How long Python may take to make an empty environment.
const MAKE: Duration = Duration::from_secs(80);
/// How long pip may take to bring the packages; with [`MAKE`] it stays below what a test may take.
const BRING: Duration = Duration::from_secs(140);
/// How long to wait for another process that makes what is wanted.
const WAIT: Duration = Duration::from_secs(230);

/// The interpreter of an environment that has what `requirements` (a file) names.
///
/// # Errors
/// When Python, or a package, is not to be had in time; the error says what to do.
pub async fn python(requirements: &Path) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("finding the path of this program")?;
    let target = profile_directory(&own)?.parent().context("no directory above the profile's")?;
    python_in(&target.join("python"), requirements).await
}

/// The interpreter of the environment that has the programs of `tests/tools.txt`; those with a command lie beside it.
///
/// # Errors
/// As [`python`].
pub async fn tools() -> anyhow::Result<PathBuf> {
    python(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools.txt")).await
}

/// As [`python`], with the environments below this directory.
///
/// # Errors
/// As [`python`].
pub async fn python_in(environments: &Path, requirements: &Path) -> anyhow::Result<PathBuf> {
    let wanted = read_to_string(requirements).with_context(|| format!("reading {}", requirements.display()))?;
    create_dir_all(environments)?;
    let mut hasher = DefaultHasher::new();
    (wanted, version().await?).hash(&mut hasher);
    let environment = environments.join(format!("{:016x}", hasher.finish()));
    let _lock = lock(&environment.with_extension("lock")).await?;
    if !environment.join("complete").is_file() {
        make(&environment, requirements).await?;
    }
    Ok(environment.join("bin/python"))
}

/// Which Python there is: an environment does not outlive the one it was made of.
async fn version() -> anyhow::Result<Vec<u8>> {
    let tell = "import sys; print(sys.version, sys.base_prefix)";
    let output = Command::new("python3").args(["-c", tell]).kill_on_drop(true).output();
    let output = timeout(MAKE, output).await.context("python3 does not say its version")?;
    let output = output.context("python3 cannot be started; fix: deploy/local/install python")?;
    if !output.status.success() {
        bail!("python3 does not say its version: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

/// Waits for a lock on this file; it ends with the file handle, or with the process.
pub(crate) async fn lock(path: &Path) -> anyhow::Result<File> {
    let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    let what = format!("the process that brings packages and holds {}", path.display());
    wait_until(&what, WAIT, async || file.try_lock().is_ok()).await?;
    Ok(file)
}

async fn make(environment: &Path, requirements: &Path) -> anyhow::Result<()> {
    if environment.exists() {
        remove_dir_all(environment).with_context(|| format!("removing {}", environment.display()))?;
    }
    let mut venv = Command::new("python3");
    run(venv.args(["-m", "venv"]).arg(environment), MAKE)
        .await
        .context("python3 -m venv failed; fix: deploy/local/install python")?;
    let mut pip = Command::new(environment.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "-r"]).arg(requirements);
    run(&mut pip, BRING).await.with_context(|| {
        format!(
            "the packages in {} cannot be had; see whether the package index that `pip config list` names can be reached, or \
             name one that can, or a directory of wheels (PIP_FIND_LINKS), and run again",
            requirements.display()
        )
    })?;
    write(environment.join("complete"), "")?;
    Ok(())
}

/// Runs a command to its end, or kills it; what it said goes into the error.
pub(crate) async fn run(command: &mut Command, limit: Duration) -> anyhow::Result<()> {
    let output = timeout(limit, command.kill_on_drop(true).output()).await;
    let output = output.with_context(|| format!("it did not end within {limit:?}"))??;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!("{}: {}", output.status, String::from_utf8_lossy(&said).trim());
    }
    Ok(())
}
