//! Whether the broker has what the topology says, looked at once for each connection: a broker that was away may have lost it. Services look;
//! only the local default declares.

use std::time::Duration;

use countersign_boot::Context;
use countersign_broker::{Broker, Config, reconnected, topology};
use countersign_delivery::Topology;
use tokio_util::sync::CancellationToken;

use countersign_telemetry::with_sources;

/// Between two looks while something is missing.
const PAUSE: Duration = Duration::from_secs(2);

/// Declares (if `apply`) and looks until all is there, at each new connection; readiness says what is missing. The token is cancelled when all
/// is there for the first time.
pub fn watch(context: &Context, broker: &Broker, config: Config, wanted: Topology, apply: bool) -> CancellationToken {
    let mut state = broker.state();
    let all_there = CancellationToken::new();
    let found = all_there.clone();
    let shown = context.health.dependency("topology");
    let looking = async move {
        loop {
            match look(&config, &wanted, apply).await {
                Ok(()) => {
                    found.cancel();
                    shown.ready();
                    reconnected(&mut state).await;
                }
                Err(problem) => {
                    shown.unready(problem);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    };
    drop(context.tasks.spawn("look at the topology", context.stop.soft_token().run_until_cancelled_owned(looking)));
    all_there
}

async fn look(config: &Config, wanted: &Topology, apply: bool) -> Result<(), String> {
    if apply {
        topology::apply(config, wanted).await.map_err(|error| with_sources(&error))?;
    }
    let missing = topology::verify(config, wanted).await.map_err(|error| with_sources(&error))?;
    if missing.is_empty() { Ok(()) } else { Err(missing.join("; ")) }
}
