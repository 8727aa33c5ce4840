//! A consumer that crashes as soon as it has taken messages in, again and again: a bad roll-out, and no message's fault.

use anyhow::ensure;
use countersign_flow::{Flow, PATIENCE, Setup};
use countersign_launcher::{Extras, SUBSCRIPTION, Which, wait_until};
use countersign_wire::proto;

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
    flow.start(&[Which::Callback, Which::Upstream, Which::Downstream]).await?;
    // It has been running before, so that the record in Redis is older than the messages.
    flow.system.stop(Which::Downstream).await?;
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
    flow.queue_reaches(&format!("{SUBSCRIPTION}.limit"), 0).await?;
    flow.dead_letters_reach(SUBSCRIPTION, 0).await?;
    flow.start(&[Which::Downstream]).await?;
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    flow.dead_letters_reach(SUBSCRIPTION, 0).await?;
    let log = flow.system.log_of(Which::Downstream)?;
    for never in ["the effect may have happened twice", "will not be handled", "a delivery is refused"] {
        ensure!(!log.contains(never), "downstream said {never:?}");
    }
    flow.finish().await
}

/// With a low limit the broker gives up on whatever the crashing consumer had prefetched. Even then nothing is lost, and somebody is told:
/// callback parks it, or has found it missing before its dead letter was signed and has it sent again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_low_delivery_limit_good_messages_go_down_and_are_signed_for() -> anyhow::Result<()> {
    let (mut flow, ids) = crashed("crash_loop_low", 25, "delivery_limit = 20").await?;
    flow.start(&[Which::Downstream]).await?;
    let is_settled = async || {
        let Ok(deliveries) = flow.deliveries().await else { return false };
        let settled = |delivery: &proto::Delivery| delivery.state == "done" || went_down(delivery);
        deliveries.len() == ids.len() && deliveries.iter().all(settled)
    };
    wait_until("every message to be done, or parked as a dead letter", PATIENCE, is_settled).await?;
    flow.queue_reaches(&format!("{SUBSCRIPTION}.limit"), 0).await?;
    flow.queue_reaches(&format!("{SUBSCRIPTION}.dead"), 0).await?;
    let dead = flow.dead_letters(SUBSCRIPTION).await?.len();
    ensure!(dead > 0, "the broker gave up on none");
    println!("{dead} of {MESSAGES} good messages went down with a delivery limit of 20");

    // Mended, a human sends them again.
    let all_done = async || {
        let Ok(deliveries) = flow.deliveries().await else { return false };
        for parked in deliveries.iter().filter(|delivery| went_down(delivery)) {
            // One that has been signed meanwhile is refused, and needs nothing more.
            let _ = flow.resend_by_hand(&parked.message_id).await;
        }
        deliveries.iter().all(|delivery| delivery.state == "done")
    };
    wait_until("every message to be done", PATIENCE, all_done).await?;
    flow.each_effected_once(&ids).await?;
    flow.finish().await
}

/// Whether the broker gave up on it.
fn went_down(delivery: &proto::Delivery) -> bool {
    delivery.state == "parked" && delivery.reason.starts_with("dead_lettered: ")
}
