//! The same message is delivered twice.

use anyhow::ensure;
use countersign_flow::{Flow, PATIENCE, everywhere};
use countersign_launcher::{Which, wait_until};
use countersign_wire::proto::{Attempt, ResendMessagesRequest, ResendOrder, ResendState};

everywhere!(a_duplicate_is_absorbed_and_signed_again);

async fn a_duplicate_is_absorbed_and_signed_again(mut flow: Flow) -> anyhow::Result<()> {
    flow.start(&Which::ALL).await?;
    let ids = flow.send(0, 10).await?;
    flow.all_signed(&ids).await?;
    let deliveries = flow.deliveries().await?;
    let orders = deliveries.iter().map(|delivery| ResendOrder {
        message_id: id_bytes(&delivery.message_id),
        attempt: Some(Attempt { epoch: 0, number: 1 }),
        subscriptions: Vec::new(),
        fingerprint: delivery.fingerprint.clone(),
    });
    let request = ResendMessagesRequest { orders: orders.collect() };
    let results = flow.upstream().await?.resend_messages(request).await?.into_inner().results;
    ensure!(results.iter().all(|result| result.state() == ResendState::Resent), "{results:?}");
    let repeated =
        async || flow.system.metric(Which::Downstream, "countersign_dedup_total").await.is_ok_and(|claims| claims >= 20.0);
    wait_until("20 claims", PATIENCE, repeated).await?;
    flow.each_effected_once(&ids).await?;
    ensure!(flow.system.effects().await?.calls == 10, "a duplicate reached the handler");
    flow.finish().await
}

fn id_bytes(text: &str) -> tonic::codegen::Bytes {
    let hex: String = text.chars().filter(|letter| *letter != '-').collect();
    (0..hex.len()).step_by(2).filter_map(|at| u8::from_str_radix(&hex[at..at + 2], 16).ok()).collect::<Vec<_>>().into()
}
