//! The message was processed, but its receipt never reached callback.

use anyhow::ensure;
use countersign_flow::{Flow, everywhere};
use countersign_launcher::Which;

everywhere!(a_lost_receipt_is_signed_again_without_a_second_effect);

async fn a_lost_receipt_is_signed_again_without_a_second_effect(mut flow: Flow) -> anyhow::Result<()> {
    flow.start(&[Which::Downstream, Which::Upstream]).await?;
    let ids = flow.send(0, 5).await?;
    flow.effects_reach(5).await?;
    flow.deliveries_settled(5).await?;
    ensure!(flow.ground.purge("countersign.receipts").await? > 0, "there was no receipt to lose");
    flow.start(&[Which::Callback]).await?;
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    for id in &ids {
        ensure!(flow.history(id, "resending").await? >= 1, "message {id} was signed without having been resent");
    }
    flow.finish().await
}
