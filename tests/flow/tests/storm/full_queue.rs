//! Nobody consumes, and the work queue is full: what is refused is no evidence, and nothing is sent again.

use anyhow::ensure;
use countersign_flow::{Flow, PATIENCE, Setup};
use countersign_launcher::{Extras, SUBSCRIPTION, Which, wait_until};

use super::resends;

/// What the work queue has room for.
const ROOM: u32 = 50;
/// Messages sent: upstream keeps what the queue refuses.
const ORDERS: u32 = 300;
/// Looks at every message whose check is due before anybody consumes: the delays between them are of 0.5, 1, 2, 2, 2 … seconds.
const LOOKS: u32 = 12;
/// Probes that the queue refuses meanwhile.
const REFUSED: f64 = 3.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_in_a_full_queue_is_never_sent_again() -> anyhow::Result<()> {
    let extras = Extras {
        topology: "[[route]]\nexchange = \"orders\"\non_full = \"keep\"\n".into(),
        subscription: format!("max_length = {ROOM}"),
        upstream: "confirm_wait_ms = 200\nrepublish_max_ms = 500".into(),
        ..Extras::default()
    };
    let mut flow = Flow::with_extras("storm_full", Setup { postgres: true, max_batch: 256 }, extras).await?;
    flow.start(&[Which::Callback, Which::Upstream]).await?;
    let mut ids = Vec::new();
    for first in (0..ORDERS).step_by(100) {
        ids.extend(flow.send(first, 100).await?);
    }
    let look = flow.system.look().clone();
    let refused = async || look.metric(Which::Callback, "countersign_probes_total", "outcome=\"not_published\"").await;
    let waited = async || look.metric(Which::Callback, "countersign_checks_total", "verdict=\"wait\"").await;
    wait_until("many looks and some refused probes", 2 * PATIENCE, async || {
        refused().await.is_ok_and(|refused| refused >= REFUSED)
            && waited().await.is_ok_and(|looks| looks >= f64::from(LOOKS * ROOM))
    })
    .await?;
    let nacked = look.metric(Which::Upstream, "countersign_publish_total", "outcome=\"nacked\"").await?;
    ensure!(nacked > 0.0 && flow.work_queue_depth().await? >= ROOM, "the queue was never full");
    let resent = resends(&flow).await?;
    ensure!(resent == 0.0, "{resent} resends of what waits in the queue");
    let log = flow.system.log_of(Which::Callback)?;
    let told = log.lines().find(|line| line.contains("a probe could not be published"));
    ensure!(told.is_some_and(|line| line.contains(SUBSCRIPTION) && line.contains("queue full")), "{told:?}");
    println!("{} looks, {} refused probes, {nacked} refused messages, no resend", waited().await?, refused().await?);

    flow.start(&[Which::Downstream]).await?;
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    let resent = resends(&flow).await?;
    ensure!(resent == 0.0, "{resent} resends when the queue emptied");
    ensure!(flow.system.look().counts().await?.calls == u64::from(ORDERS), "something was delivered twice");
    flow.finish().await
}
