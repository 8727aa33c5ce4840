//! The broker's node gets SIGKILL and is started again on its data. Every service reconnects by itself.

use anyhow::{Context as _, bail};
use countersign_launcher::{SUBSCRIPTION, Which, wait_until};

use crate::faults::{NOTICE, Scene, Struck};
use crate::schedule::Fault;

/// What upstream logs when the broker is away.
const AWAY: &str = "the broker is away";

pub async fn strike(scene: &mut Scene<'_>) -> anyhow::Result<Struck> {
    let services = running(scene)?;
    if scene.stage.system.process(Which::Callback).is_err() {
        tiers_are_empty(scene).await;
    }
    let rabbitmq = scene.stage.rabbitmq.as_mut().context("the broker is not the demo's own")?;
    // What a broker owes to queues declared long ago; it writes its list of queues late.
    rabbitmq.settle().await?;
    let [before, _] = rabbitmq.pids();
    rabbitmq.kill9();
    scene.teller.say(&format!("broker killed (pid {before})"));
    scene.tally.release(scene.orders, 1_000);
    let mut noticed = 0;
    for (which, _) in &services {
        let what = format!("{} to lose the broker", which.name());
        noticed += usize::from(wait_until(&what, NOTICE, async || lost_it(scene, *which).await).await.is_ok());
    }
    let rabbitmq = scene.stage.rabbitmq.as_mut().context("the broker is not the demo's own")?;
    rabbitmq.start_again().await.context("starting the broker again")?;
    let [after, _] = rabbitmq.pids();
    for (which, pid) in &services {
        scene.stage.system.ready(*which).await.context("reconnecting to the broker")?;
        if scene.stage.system.process(*which)?.pid() != *pid {
            bail!("{} is not the process it was", which.name());
        }
    }
    let names: Vec<_> = services.iter().map(|(which, _)| which.name()).collect();
    let names = names.join(", ");
    let evidence = format!("pid {before} got SIGKILL, {after} came; {names} lost it and reconnected by themselves");
    let times = u64::from(before != after && noticed == services.len());
    let evidence = if times == 1 { evidence } else { format!("{noticed} of {names} noticed") };
    Ok(Struck { fault: Fault::BrokerRestarted, times, evidence, book: "the demo, the services' health" })
}

/// RabbitMQ 3.10 keeps back for three minutes what expires while its target is not there yet. Callback makes good for that; without it
/// the demo waits until what downstream's death left in the retry tiers is through.
async fn tiers_are_empty(scene: &Scene<'_>) {
    let tiers = scene.stage.system.retry_delays_ms().map(|delay| format!("{SUBSCRIPTION}.retry.{delay}"));
    let empty = async || {
        let mut depth = 0;
        for tier in &tiers {
            depth += scene.stage.broker.queue_depth(&scene.stage.vhost, tier).await.unwrap_or(1);
        }
        depth == 0
    };
    scene.moment("the retry tiers to be empty", empty).await;
}

/// Whether a service says that the broker is away. Upstream stays ready without it, since it still stores what is sent.
async fn lost_it(scene: &Scene<'_>, which: Which) -> bool {
    let said = scene.stage.system.process(which).map(countersign_launcher::Running::log_text).unwrap_or_default();
    !scene.look.is_ready(which).await || said.contains(AWAY)
}

/// The services that run, with their process ids.
fn running(scene: &Scene<'_>) -> anyhow::Result<Vec<(Which, u32)>> {
    let mut running = Vec::new();
    for which in Which::ALL {
        if let Ok(process) = scene.stage.system.process(which) {
            if !process.is_alive() {
                bail!("{} has ended by itself", which.name());
            }
            running.push((which, process.pid()));
        }
    }
    Ok(running)
}
