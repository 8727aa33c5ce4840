//! The same check comes twice: its reader died before it was acked.

use anyhow::ensure;
use countersign_flow::{Flow, PATIENCE, everywhere};
use countersign_launcher::{SUBSCRIPTION, Which};

everywhere!(a_redelivered_check_gives_one_resend);

async fn a_redelivered_check_gives_one_resend(mut flow: Flow) -> anyhow::Result<()> {
    flow.start(&[Which::Upstream]).await?;
    let ids = flow.send(0, 3).await?;
    flow.queue_reaches(SUBSCRIPTION, 3).await?;
    flow.ground.purge(SUBSCRIPTION).await?;
    flow.system.spawn(Which::Callback, "callback.check_after_delivery=1*return")?;
    flow.system.dies_at(Which::Callback, "callback.check_after_delivery", PATIENCE).await?;
    flow.start(&[Which::Callback, Which::Downstream]).await?;
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    for id in &ids {
        let resends = flow.history(id, "resending").await?;
        ensure!(resends == 1, "message {id} was lost once and resent {resends} times");
    }
    flow.finish().await
}
