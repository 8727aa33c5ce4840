//! The traces of a message that was resent contain all seven steps.

use countersign_flow::spans::Collector;
use countersign_flow::{Flow, PATIENCE, Setup};
use countersign_launcher::{SUBSCRIPTION, Which, wait_until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_traces_of_a_resent_message_contain_all_seven_steps() -> anyhow::Result<()> {
    let (collector, otlp) = Collector::start().await?;
    let setup = Setup { postgres: false, max_batch: 256 };
    let mut flow = Flow::with_traces("traces", setup, Some(otlp)).await?;
    flow.start(&[Which::Callback, Which::Upstream]).await?;
    let ids = flow.send(0, 1).await?;
    flow.queue_reaches(SUBSCRIPTION, 1).await?;
    flow.ground.purge(SUBSCRIPTION).await?;
    flow.start(&[Which::Downstream]).await?;
    flow.all_signed(&ids).await?;
    let all = ["1", "2", "3", "4", "5", "6", "7a", "7b"];
    let complete = async || collector.steps_of(&ids[0]).is_ok_and(|steps| all.iter().all(|step| steps.contains(*step)));
    let seen = wait_until("all seven steps in the traces", PATIENCE, complete).await;
    anyhow::ensure!(seen.is_ok(), "only these steps were seen: {:?}", collector.steps_of(&ids[0]));
    // Message, check, handling, receipt and record are one trace over three services; check and resend are linked to it.
    let own = collector.steps_in_trace_of(&ids[0])?;
    anyhow::ensure!(["1", "2", "3", "4", "5"].iter().all(|step| own.contains(*step)), "the message's own trace has only {own:?}");
    flow.finish().await
}
