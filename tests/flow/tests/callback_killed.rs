//! Callback dies (SIGKILL) at each of its points. A crash burns no attempt and loses no receipt.

use anyhow::ensure;
use countersign_flow::{Flow, PATIENCE, everywhere};
use countersign_launcher::{SUBSCRIPTION, Which};

/// Dies while it deals with a lost message.
async fn killed_while_resending(mut flow: Flow, failpoint: &str) -> anyhow::Result<()> {
    flow.start(&[Which::Upstream]).await?;
    let ids = flow.send(0, 3).await?;
    flow.queue_reaches(SUBSCRIPTION, 3).await?;
    flow.ground.purge(SUBSCRIPTION).await?;
    flow.start(&[Which::Downstream]).await?;
    flow.system.spawn(Which::Callback, &format!("{failpoint}=1*return"))?;
    flow.system.dies_at(Which::Callback, failpoint, PATIENCE).await?;
    flow.start(&[Which::Callback]).await?;
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    for delivery in flow.deliveries().await? {
        let attempt = delivery.attempt.unwrap_or_default().number;
        ensure!(attempt <= 2, "the crash cost an attempt: {delivery:?}");
    }
    flow.finish().await
}

/// Dies while it writes receipts down.
async fn killed_while_recording(mut flow: Flow, failpoint: &str) -> anyhow::Result<()> {
    flow.start(&[Which::Upstream, Which::Downstream]).await?;
    flow.system.start(Which::Callback, &format!("{failpoint}=1*return")).await?;
    let ids = flow.send(0, 3).await?;
    flow.system.dies_at(Which::Callback, failpoint, PATIENCE).await?;
    flow.start(&[Which::Callback]).await?;
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    flow.finish().await
}

everywhere!(killed_between_attempt_and_call);
async fn killed_between_attempt_and_call(flow: Flow) -> anyhow::Result<()> {
    killed_while_resending(flow, "callback.after_attempt_stored").await
}

everywhere!(killed_after_the_call);
async fn killed_after_the_call(flow: Flow) -> anyhow::Result<()> {
    killed_while_resending(flow, "callback.after_call").await
}

everywhere!(killed_after_the_check_was_put_back);
async fn killed_after_the_check_was_put_back(flow: Flow) -> anyhow::Result<()> {
    killed_while_resending(flow, "callback.after_rearm").await
}

everywhere!(killed_after_a_receipt_was_delivered);
async fn killed_after_a_receipt_was_delivered(flow: Flow) -> anyhow::Result<()> {
    killed_while_recording(flow, "callback.receipt_after_delivery").await
}

everywhere!(killed_after_a_receipt_was_persisted);
async fn killed_after_a_receipt_was_persisted(flow: Flow) -> anyhow::Result<()> {
    killed_while_recording(flow, "callback.receipt_after_persist").await
}
