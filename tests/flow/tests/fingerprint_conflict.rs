//! Somebody publishes another content under an id that is known.

use anyhow::ensure;
use countersign_flow::{Flow, everywhere};
use countersign_launcher::Which;

everywhere!(a_conflict_is_never_processed_and_leaves_the_genuine_message_alone);

async fn a_conflict_is_never_processed_and_leaves_the_genuine_message_alone(mut flow: Flow) -> anyhow::Result<()> {
    flow.start(&Which::ALL).await?;
    let ids = flow.send(0, 1).await?;
    flow.all_signed(&ids).await?;
    flow.forge(&ids[0], "00112233445566778899aabbccddeeff").await?;
    flow.dead_letters_reach("inventory.orders", 1).await?;
    flow.each_effected_once(&ids).await?;
    let deliveries = flow.deliveries().await?;
    ensure!(deliveries.len() == 1 && deliveries[0].state == "done", "{deliveries:?}");
    ensure!(flow.system.effects().await?.calls == 1, "the forged message reached the handler");
    flow.finish().await
}
