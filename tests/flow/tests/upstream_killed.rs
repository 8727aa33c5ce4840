//! Upstream dies (SIGKILL) at each point after the commit; its successor adopts what it left behind.

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, PATIENCE, everywhere, order};
use countersign_launcher::{SUBSCRIPTION, Which};
use countersign_wire::proto::get_message_request::By;
use countersign_wire::proto::{GetMessageRequest, SendMessageRequest};

/// How often the heartbeat (one every 200 ms here) passes its failpoint before it kills: upstream must have time to start and be sent to.
const BEATS_BEFORE_DEATH: u32 = 30;

async fn killed_at(flow: Flow, failpoint: &str) -> anyhow::Result<()> {
    killed_by(flow, failpoint, "1*return").await
}

async fn killed_by(mut flow: Flow, failpoint: &str, action: &str) -> anyhow::Result<()> {
    flow.start(&[Which::Callback, Which::Downstream]).await?;
    flow.system.start(Which::Upstream, &format!("{failpoint}={action}")).await?;
    let request = SendMessageRequest { message: Some(order(1)) };
    // Upstream dies during the call or after it, so the answer may or may not have come.
    let _ = flow.upstream().await?.send_message(request).await;
    flow.system.dies_at(Which::Upstream, failpoint, PATIENCE).await?;
    flow.start(&[Which::Upstream]).await?;
    let stored = flow.upstream().await?.get_message(by_key("order-1")).await.context("the committed message is gone")?;
    let id = stored.into_inner().id;
    flow.all_signed(std::slice::from_ref(&id)).await?;
    flow.each_effected_once(std::slice::from_ref(&id)).await?;
    // The caller who never got an answer asks again with the same key and is told of the same message.
    let again = flow.upstream().await?.send_message(SendMessageRequest { message: Some(order(1)) }).await?.into_inner().accepted;
    let again = again.context("no result")?;
    ensure!(again.duplicate && again.id == id, "asked again, answered {again:?} instead of {id}");
    flow.finish().await
}

fn by_key(key: &str) -> GetMessageRequest {
    GetMessageRequest { by: Some(By::IdempotencyKey(key.to_owned())), ..Default::default() }
}

everywhere!(killed_after_store);
async fn killed_after_store(flow: Flow) -> anyhow::Result<()> {
    killed_at(flow, "upstream.after_store").await
}

everywhere!(killed_after_message_publish);
async fn killed_after_message_publish(flow: Flow) -> anyhow::Result<()> {
    killed_at(flow, "upstream.after_message_publish").await
}

everywhere!(killed_after_message_confirm);
async fn killed_after_message_confirm(flow: Flow) -> anyhow::Result<()> {
    killed_at(flow, "upstream.after_message_confirm").await
}

everywhere!(killed_after_check_confirm);
async fn killed_after_check_confirm(flow: Flow) -> anyhow::Result<()> {
    killed_at(flow, "upstream.after_check_confirm").await
}

everywhere!(killed_before_watermark);
async fn killed_before_watermark(flow: Flow) -> anyhow::Result<()> {
    killed_by(flow, "upstream.before_watermark", &format!("{BEATS_BEFORE_DEATH}*off->1*return")).await
}

/// Dies while it carries out an order to send again: the order stays open, and callback repeats the same try.
async fn killed_while_resending(mut flow: Flow, failpoint: &str) -> anyhow::Result<()> {
    flow.system.start(Which::Upstream, &format!("{failpoint}=1*return")).await?;
    let ids = flow.send(0, 3).await?;
    flow.queue_reaches(SUBSCRIPTION, 3).await?;
    flow.ground.purge(SUBSCRIPTION).await?;
    flow.start(&[Which::Callback, Which::Downstream]).await?;
    flow.system.dies_at(Which::Upstream, failpoint, PATIENCE).await?;
    flow.start(&[Which::Upstream]).await?;
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    for delivery in flow.deliveries().await? {
        let attempt = delivery.attempt.unwrap_or_default().number;
        ensure!(attempt <= 2, "the crash cost an attempt: {delivery:?}");
    }
    flow.finish().await
}

everywhere!(killed_between_an_order_and_its_publish);
async fn killed_between_an_order_and_its_publish(flow: Flow) -> anyhow::Result<()> {
    killed_while_resending(flow, "resend.after_lookup").await
}

everywhere!(killed_between_a_second_publish_and_its_answer);
async fn killed_between_a_second_publish_and_its_answer(flow: Flow) -> anyhow::Result<()> {
    killed_while_resending(flow, "resend.after_publish").await
}
