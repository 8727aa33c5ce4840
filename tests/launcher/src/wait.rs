//! Waiting for something outside this process, with a bound.

use std::time::Duration;

use anyhow::bail;
use tokio::time::{Instant, sleep};

/// How long to look away between two probes, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LAST_PAUSE: Duration = Duration::from_millis(100);

/// Probes until `probe` says true. `what` completes the sentence "waited 10s for …".
///
/// # Errors
/// When `timeout` has passed and the last probe still said false.
pub async fn wait_until(what: &str, timeout: Duration, mut probe: impl AsyncFnMut() -> bool) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        if probe().await {
            return Ok(());
        }
        if started.elapsed() >= timeout {
            bail!("waited {timeout:?} for {what}");
        }
        sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}
