//! Keeps readiness true about exchanges and queues: declared (if this process may) and verified at each new connection.

use std::time::Duration;

use countersign_boot::Dependency;
use countersign_broker::{Error, State, reconnected, topology};
use countersign_delivery::Topology;
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, sleep};

use countersign_telemetry::with_sources;

/// Pause before a topology that differs, or could not be read, is looked at again.
const PAUSE: Duration = Duration::from_secs(1);

/// What is watched.
pub(crate) struct Watch {
    pub config: countersign_broker::Config,
    pub topology: Topology,
    pub apply: bool,
    pub state: Receiver<State>,
    pub dependency: Dependency,
    pub start_wait_ms: u64,
}

impl Watch {
    /// Watches until dropped.
    pub(crate) async fn run(mut self) {
        let began = Instant::now();
        loop {
            match self.look().await {
                Ok(differences) if differences.is_empty() => {
                    self.dependency.ready();
                    reconnected(&mut self.state).await;
                    continue;
                }
                Ok(differences) => {
                    let words = format!("it differs: {}", differences.join("; "));
                    self.dependency.unready(words);
                }
                // A broker that is away stops no send; before it was seen, readiness waits for it a while.
                Err(error) if error.is_transient() => {
                    if began.elapsed() < Duration::from_millis(self.start_wait_ms) {
                        self.dependency.unready(format!("not verified yet: {}", with_sources(&error)));
                    } else {
                        self.dependency.ready();
                    }
                }
                Err(error) => self.dependency.unready(with_sources(&error)),
            }
            sleep(PAUSE).await;
        }
    }

    async fn look(&self) -> Result<Vec<String>, Error> {
        if self.apply {
            topology::apply(&self.config, &self.topology).await?;
        }
        topology::verify(&self.config, &self.topology).await
    }
}
