//! A consumer that crashes as soon as it has taken messages in, again and again: a bad roll-out, and no message's fault.

use std::collections::BTreeSet;

use anyhow::ensure;
use countersign_flow::{Flow, PATIENCE, Setup};
use countersign_launcher::{Extras, SUBSCRIPTION, Which};

/// Unsettled messages that go back with every crash.
const PREFETCH: u32 = 50;
/// Good messages, more than that.
const MESSAGES: u32 = 60;
/// Before anything is claimed.
const POINT: &str = "downstream.after_delivery";

/// The messages, and a consumer that has crashed so often on them.
async fn crashed(test: &str, crashes: u32, topology: &str) -> anyhow::Result<(Flow, Vec<String>)> {
    let extras = Extras { downstream: format!("prefetch = {PREFETCH}"), ..Extras::default() };
    let mut flow = Flow::with_extras(test, Setup { postgres: false, max_batch: 256 }, extras).await?;
    let file = flow.system.topology_file();
    let written = std::fs::read_to_string(&file)?;
    std::fs::write(&file, written.replacen("version = 1\n", &format!("version = 1\n{topology}\n"), 1))?;
    flow.start(&[Which::Callback, Which::Upstream]).await?;
    let ids = flow.send(0, MESSAGES).await?;
    for _ in 0..crashes {
        flow.system.spawn(Which::Downstream, &format!("{POINT}=1*return"))?;
        flow.system.dies_at(Which::Downstream, POINT, PATIENCE).await?;
    }
    Ok((flow, ids))
}

/// The limit that is shipped is far above anything that a crash loop brings about.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_good_message_goes_down_with_a_consumer_that_crashes_thirty_times() -> anyhow::Result<()> {
    let (mut flow, ids) = crashed("crash_loop", 30, "").await?;
    for end in [".limit", ".dead"] {
        flow.queue_reaches(&format!("{SUBSCRIPTION}{end}"), 0).await?;
    }
    flow.start(&[Which::Downstream]).await?;
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    flow.queue_reaches(&format!("{SUBSCRIPTION}.dead"), 0).await?;
    let log = flow.system.log_of(Which::Downstream)?;
    for never in ["the effect may have happened twice", "will not be handled", "a delivery is refused"] {
        ensure!(!log.contains(never), "downstream said {never:?}");
    }
    flow.finish().await
}

/// With a low limit the broker gives up on whatever the crashing consumer had prefetched. Even then nothing is lost, and somebody is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_low_delivery_limit_good_messages_go_down_and_are_signed_for() -> anyhow::Result<()> {
    let (mut flow, ids) = crashed("crash_loop_low", 25, "delivery_limit = 20").await?;
    flow.start(&[Which::Downstream]).await?;
    let is_settled = async || {
        let Ok(deliveries) = flow.deliveries().await else { return false };
        let settled = |state: &str| ["done", "parked"].contains(&state);
        deliveries.len() == ids.len() && deliveries.iter().all(|delivery| settled(&delivery.state))
    };
    countersign_launcher::wait_until("every message to be done or parked", PATIENCE, is_settled).await?;
    let deliveries = flow.deliveries().await?;
    let parked: BTreeSet<&str> = deliveries
        .iter()
        .filter(|delivery| delivery.state == "parked" && delivery.reason.starts_with("dead_lettered: "))
        .map(|delivery| delivery.message_id.as_str())
        .collect();
    let effects = flow.system.effects().await?.effects;
    let log = flow.system.log_of(Which::Downstream)?;
    let taken = log.matches("failpoint hit").count();
    let stand: BTreeSet<_> = deliveries.iter().map(|delivery| (&delivery.state, &delivery.reason)).collect();
    ensure!(!parked.is_empty(), "the broker gave up on none after {taken} crashes: they stand {stand:?}");
    ensure!(parked.len() + effects.len() == ids.len(), "{} parked, {} effects", parked.len(), effects.len());
    ensure!(effects.keys().all(|id| !parked.contains(id.as_str())), "a parked message had an effect");
    flow.queue_reaches(&format!("{SUBSCRIPTION}.limit"), 0).await?;
    // Copies are made at least once, so that there may be more.
    let dead = flow.ground.queue_depth(&format!("{SUBSCRIPTION}.dead")).await?;
    ensure!(dead >= u32::try_from(parked.len())?, "{dead} are in the dead-letter queue, {} are parked", parked.len());
    println!("{} of {} good messages went down with a delivery limit of 20 ({dead} copies)", parked.len(), ids.len());
    for id in &parked {
        flow.resend_by_hand(id).await?;
    }
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    flow.finish().await
}
