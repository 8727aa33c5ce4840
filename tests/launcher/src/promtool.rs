//! Prometheus' own checks of what is written for it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::process::Command;
use tokio::time::timeout;

use crate::shared::find_program;

/// How long one check may take, on a busy machine.
const CHECK: Duration = Duration::from_mins(3);

/// Runs `promtool` with these arguments in a directory and returns what it said.
///
/// # Errors
/// When it is not installed, or refuses what it is given; the error says what it said.
pub async fn promtool(directory: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(find_program("promtool", [], "prometheus")?);
    let running = command.args(arguments).current_dir(directory).kill_on_drop(true).output();
    let output = timeout(CHECK, running).await.context("promtool did not end in time")??;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() { Ok(said) } else { bail!("promtool {} says:\n{said}", arguments.join(" ")) }
}
