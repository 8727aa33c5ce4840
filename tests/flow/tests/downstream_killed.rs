//! Downstream dies (SIGKILL) between each two of its five actions.

use anyhow::ensure;
use countersign_flow::{Flow, PATIENCE, everywhere};
use countersign_launcher::Which;

async fn killed_at(mut flow: Flow, failpoint: &str, most_effects: u64) -> anyhow::Result<()> {
    flow.start(&[Which::Callback, Which::Upstream]).await?;
    flow.system.start(Which::Downstream, &format!("{failpoint}=1*return")).await?;
    let ids = flow.send(0, 1).await?;
    flow.system.dies_at(Which::Downstream, failpoint, PATIENCE).await?;
    flow.start(&[Which::Downstream]).await?;
    flow.all_signed(&ids).await?;
    let effects = flow.system.effects().await?;
    ensure!((1..=most_effects).contains(&effects.total), "{} effects of one message: {effects:?}", effects.total);
    let counted = flow.system.metric(Which::Downstream, "countersign_possible_duplicates_total").await?;
    ensure!(effects.total == 1 || counted >= 1.0, "{} effects, and {counted} possible duplicates counted", effects.total);
    flow.finish().await
}

everywhere!(killed_after_delivery);
async fn killed_after_delivery(flow: Flow) -> anyhow::Result<()> {
    killed_at(flow, "downstream.after_delivery", 1).await
}

everywhere!(killed_after_claim);
async fn killed_after_claim(flow: Flow) -> anyhow::Result<()> {
    killed_at(flow, "downstream.after_claim", 1).await
}

// The one window that the guard `redis` leaves open: the effect happened, the mark did not. It is counted.
everywhere!(killed_after_effect);
async fn killed_after_effect(flow: Flow) -> anyhow::Result<()> {
    killed_at(flow, "downstream.after_effect", 2).await
}

everywhere!(killed_after_complete);
async fn killed_after_complete(flow: Flow) -> anyhow::Result<()> {
    killed_at(flow, "downstream.after_complete", 1).await
}

everywhere!(killed_after_receipt_publish);
async fn killed_after_receipt_publish(flow: Flow) -> anyhow::Result<()> {
    killed_at(flow, "downstream.after_receipt_publish", 1).await
}

everywhere!(killed_after_receipt_confirm);
async fn killed_after_receipt_confirm(flow: Flow) -> anyhow::Result<()> {
    killed_at(flow, "downstream.after_receipt_confirm", 1).await
}
