//! A memory alarm: the broker takes no publishes, and says so.

use anyhow::ensure;
use countersign_flow::{Flow, PATIENCE};
use countersign_launcher::{Which, wait_until};
use countersign_wire::proto::SendState;

use super::rig::{Private, all_are, finish, private};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sends_to_a_blocked_broker_are_committed_in_time_and_flow_after_the_alarm() -> anyhow::Result<()> {
    let Private { dir: _dir, broker, mut flow } = private("blocked", "max_unconfirmed = 15").await?;
    flow.start(&Which::ALL).await?;
    let mut ids = all_are(&flow, SendState::Confirmed, 0, 3).await?;
    broker.ctl(&["set_vm_memory_high_watermark", "absolute", "1"]).await?;
    // The alarm is told to connections that publish.
    ids.extend(all_are(&flow, SendState::Committed, 3, 5).await?);
    wait_until("upstream's connection to be blocked", PATIENCE, async || {
        let blocked = flow.system.metric(Which::Upstream, "countersign_connection_blocked").await;
        blocked.is_ok_and(|blocked| blocked > 0.0)
    })
    .await?;
    ids.extend(all_are(&flow, SendState::Committed, 8, 5).await?);
    ensure!(flow.system.look().is_ready(Which::Upstream).await, "sends are taken, so upstream is ready");
    ids.extend(all_are(&flow, SendState::Committed, 13, 5).await?);
    readiness_says(&flow, "the broker takes no publishes").await?;
    broker.ctl(&["set_vm_memory_high_watermark", "0.4"]).await?;
    flow.system.ready(Which::Upstream).await?;
    finish(flow, &ids).await
}

/// Waits until upstream, which takes no more, is not ready, for this reason.
async fn readiness_says(flow: &Flow, words: &str) -> anyhow::Result<()> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let url = format!("{}/health/ready", flow.system.http_url(Which::Upstream));
    wait_until(&format!("readiness to say {words:?}"), PATIENCE, async || {
        let Ok(answer) = client.get(&url).send().await else { return false };
        answer.status() == 503 && answer.text().await.is_ok_and(|text| text.contains(words))
    })
    .await
}
