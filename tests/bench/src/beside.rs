//! Programs of this crate that run beside the services.

use std::path::Path;
use std::time::Duration;

use countersign_launcher::{Program, Running, binary};

/// For one to listen.
const START: Duration = Duration::from_mins(1);
const LISTENING: &str = "listening on ";

/// One of them, in a process of its own. Dropping it kills it.
pub(crate) struct Beside {
    pub process: Running,
    /// Where it listens.
    pub url: String,
}

impl Beside {
    /// Starts it in a directory, where its log goes too, and waits until it listens.
    pub(crate) async fn start(name: &str, dir: &Path) -> anyhow::Result<Self> {
        let process = Program::new(binary(name)?).current_dir(dir).log_to(dir.join(format!("{name}.log"))).spawn()?;
        let line = process.wait_for_log(LISTENING, START).await?;
        Ok(Self { process, url: format!("http://{}", line.trim_start_matches(LISTENING)) })
    }
}
