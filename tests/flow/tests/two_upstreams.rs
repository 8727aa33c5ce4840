//! Two upstreams on one database: either takes messages, callback reaches either, and one goes on when the other dies.

use countersign_flow::Flow;
use countersign_launcher::{SUBSCRIPTION, Which};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_upstreams_share_a_database_and_one_outlives_the_other() -> anyhow::Result<()> {
    let mut flow = Flow::with_replica("two_upstreams", 256).await?;
    flow.start(&Which::UPSTREAMS).await?;
    let mut ids = flow.send_in_turn(0, 20).await?;
    flow.queue_reaches(SUBSCRIPTION, 20).await?;
    // Lost, so that callback has to order resends, whoever of the two it reaches.
    flow.ground.purge(SUBSCRIPTION).await?;
    flow.start(&[Which::Callback, Which::Downstream]).await?;
    flow.system.kill9(Which::Upstream);
    ids.extend(flow.send_in_turn(20, 20).await?);
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    flow.finish().await
}
