//! The same message is delivered twice.

use anyhow::ensure;
use countersign_flow::{Flow, PATIENCE, everywhere};
use countersign_launcher::{Which, wait_until};

everywhere!(a_duplicate_is_absorbed_and_signed_again);

async fn a_duplicate_is_absorbed_and_signed_again(mut flow: Flow) -> anyhow::Result<()> {
    flow.start(&Which::ALL).await?;
    let ids = flow.send(0, 10).await?;
    flow.all_signed(&ids).await?;
    flow.send_again(&ids).await?;
    let repeated =
        async || flow.system.metric(Which::Downstream, "countersign_dedup_total").await.is_ok_and(|claims| claims >= 20.0);
    wait_until("20 claims", PATIENCE, repeated).await?;
    flow.each_effected_once(&ids).await?;
    ensure!(flow.system.effects().await?.calls == 10, "a duplicate reached the handler");
    flow.finish().await
}
