//! What readiness says about the database, the broker and the topology; and the timers.

use std::sync::Arc;
use std::time::Duration;

use countersign_boot::{Context, Dependency};
use countersign_broker::{Broker, reconnected, topology};
use countersign_delivery::Topology;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::reconciliation::Reconciliation;
use countersign_store::Database;
use tokio_util::sync::CancellationToken;

use crate::counters;
use crate::desk::Desk;
use crate::probe;
use crate::reconcile::Reconciler;
use crate::reconcile::schedule::{self, Schedule};
use crate::sweep::{SWEEP_MAX, sweep};
use countersign_telemetry::{names, with_sources};

/// Between two looks at what may be away.
const LOOK: Duration = Duration::from_secs(1);
/// Between two looks at the topology while the connection stands.
const TOPOLOGY_LOOK: Duration = Duration::from_mins(1);
/// Between two counts of deliveries, and of the dead letters that wait.
const COUNT: Duration = Duration::from_secs(10);
/// Deliveries of one state are counted up to this.
const COUNTED_MAX: u32 = 10_000;
/// How long MSG DB may take to answer.
const ANSWER: Duration = Duration::from_secs(2);

/// Keeps asking MSG DB whether it answers and may be written.
pub(crate) fn database(context: &Context, database: Database, shown: Dependency) {
    every(context, "look at MSG DB", LOOK, move || {
        let (database, shown) = (database.clone(), shown.clone());
        async move {
            match tokio::time::timeout(ANSWER, database.ping()).await {
                Ok(Ok(())) => shown.ready(),
                Ok(Err(error)) => shown.unready(with_sources(&error)),
                Err(_) => shown.unready(format!("no answer within {} ms", ANSWER.as_millis())),
            }
        }
    });
}

/// Follows the connections to the broker.
pub(crate) fn broker(context: &Context, broker: &Broker) {
    let (shown, mut state) = (context.health.dependency("broker"), broker.state());
    let following = async move {
        loop {
            let now = state.borrow_and_update().clone();
            if now.is_up() {
                shown.ready();
            } else {
                shown.unready(now.to_string());
            }
            if state.changed().await.is_err() {
                return;
            }
        }
    };
    let stop = context.stop.soft_token();
    drop(context.tasks.spawn("follow the broker", async move { stop.run_until_cancelled_owned(following).await }));
}

/// Declares (if `apply`) and looks until every queue is there, at each new connection: a broker that was away may have lost them. Readiness
/// and a gauge say what is missing; the token is cancelled when all is there for the first time. While the connection stands it only looks,
/// and what it then finds missing is treated as at a new connection.
pub(crate) fn queues(
    context: &Context,
    broker: &Broker,
    config: countersign_broker::Config,
    wanted: Arc<Topology>,
    apply: bool,
) -> CancellationToken {
    let shown = context.health.dependency("topology");
    let found = CancellationToken::new();
    let (there, mut state) = (found.clone(), broker.state());
    let looking = async move {
        loop {
            let looked = look(config.clone(), wanted.clone(), apply).await;
            let problem = looked.map_or_else(Some, |missing| (!missing.is_empty()).then(|| missing.join("; ")));
            match problem {
                None => {
                    there.cancel();
                    shown.ready();
                    tokio::select! {
                        () = reconnected(&mut state) => {}
                        () = missing_again(&config, &wanted) => {}
                    }
                }
                Some(problem) => {
                    shown.unready(problem);
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
    };
    let stop = context.stop.soft_token();
    drop(context.tasks.spawn("look at the topology", async move { stop.run_until_cancelled_owned(looking).await }));
    found
}

/// Looks at every [`TOPOLOGY_LOOK`], and returns once something is missing. A look that fails says nothing about the topology.
async fn missing_again(config: &countersign_broker::Config, wanted: &Arc<Topology>) {
    loop {
        tokio::time::sleep(TOPOLOGY_LOOK).await;
        match look(config.clone(), wanted.clone(), false).await {
            Ok(missing) if missing.is_empty() => {}
            Ok(missing) => {
                return tracing::warn!(missing = missing.join("; "), "the broker no longer has what the topology says");
            }
            Err(why) => tracing::debug!(why, "the topology could not be looked at"),
        }
    }
}

/// What is missing. The broker's calls for this are bound to one thread, so they get one.
async fn look(config: countersign_broker::Config, wanted: Arc<Topology>, apply: bool) -> Result<Vec<String>, String> {
    let runtime = tokio::runtime::Handle::current();
    let looking = tokio::task::spawn_blocking(move || {
        runtime.block_on(async {
            if apply {
                topology::apply(&config, &wanted).await?;
            }
            topology::verify(&config, &wanted).await
        })
    });
    match looking.await {
        Ok(Ok(missing)) => {
            let problems = u32::try_from(missing.len()).unwrap_or(u32::MAX);
            metrics::gauge!(names::TOPOLOGY_PROBLEMS).set(f64::from(problems));
            Ok(missing)
        }
        Ok(Err(error)) => Err(with_sources(&error)),
        Err(error) => Err(error.to_string()),
    }
}

/// Keeps counting the dead letters that wait.
pub(crate) fn letters(context: &Context, desk: &Desk) {
    let desk = desk.clone();
    every(context, "count dead letters", COUNT, move || {
        let desk = desk.clone();
        async move {
            if let Err(error) = desk.room.count(&desk).await {
                tracing::debug!(error = with_sources(&error), "dead letters could not be counted");
            }
        }
    });
}

/// Keeps counting the deliveries, and looks how far upstreams are certified: every replica says the same about MSG DB.
pub(crate) fn deliveries(context: &Context, desk: &Desk, books: Arc<dyn Reconciliation>) {
    let desk = desk.clone();
    every(context, "count deliveries", COUNT, move || {
        let (desk, books) = (desk.clone(), books.clone());
        async move {
            let counted = async {
                let (counts, known) = (desk.deliveries.counts(COUNTED_MAX).await?, books.known_upstreams().await?);
                Ok::<_, PortError>((counts, known, desk.deliveries.now().await?))
            };
            match counted.await {
                Ok((counts, known, now)) => {
                    counters::show(&counts, now);
                    counters::show_certified(&known, now);
                }
                Err(error) => tracing::debug!(error = with_sources(&error), "deliveries could not be counted"),
            }
        }
    });
}

/// Sends the probes that are wanted, as soon as their time has come.
pub(crate) fn probes(context: &Context, desk: &Desk) {
    let (desk, pause) = (desk.clone(), Duration::from_millis(desk.policy.probe_spacing_ms.clamp(100, 5_000)));
    every(context, "probe", pause, move || {
        let desk = desk.clone();
        async move {
            if let Err(error) = probe::send_due(&desk).await {
                tracing::warn!(error = with_sources(&error), "probes could not be planned");
            }
        }
    });
}

/// Looks for overdue rows; goes on at once while there are full rounds of them.
pub(crate) fn sweeps(context: &Context, desk: &Desk, pause: Duration) {
    let (desk, stop) = (desk.clone(), context.stop.clone());
    every(context, "sweep", pause, move || {
        let (desk, stop) = (desk.clone(), stop.clone());
        async move {
            let full = usize::try_from(SWEEP_MAX).unwrap_or(usize::MAX);
            loop {
                match sweep(&desk).await {
                    Ok(swept) if swept == full && !stop.is_soft() => {}
                    Ok(_) => return,
                    Err(error) => return tracing::warn!(%error, "the sweep could not finish"),
                }
            }
        }
    });
}

/// Reconciles upstreams as they become due; a round that is under way at the soft stop is broken off, and its turn ends by itself.
pub(crate) fn reconciliations(context: &Context, reconciler: &Reconciler, schedule: Schedule) {
    let (reconciler, stop) = (reconciler.clone(), context.stop.clone());
    let pause = Duration::from_millis(schedule.interval_ms.clamp(100, 30_000));
    every(context, "reconcile", pause, move || {
        let (reconciler, stop) = (reconciler.clone(), stop.clone());
        async move {
            let round = tokio::select! {
                round = schedule::round(&reconciler, schedule) => round,
                () = stop.soft() => return,
            };
            if let Err(error) = round {
                tracing::warn!(error = with_sources(&error), "the schedule could not reconcile; it tries again");
            }
        }
    });
}

/// Does it again and again, with a pause after each time, until soft stop; one that is under way is finished.
pub(crate) fn every<F>(context: &Context, name: &'static str, pause: Duration, mut once: impl FnMut() -> F + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    let stop = context.stop.clone();
    let again = async move {
        while !stop.is_soft() {
            once().await;
            tokio::select! {
                () = stop.soft() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        anyhow::Ok(())
    };
    context.tasks.critical(name, again);
}
