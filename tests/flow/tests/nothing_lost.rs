//! The plain case: everything is processed once, signed for, verified, and nothing is sent again.

use std::time::Duration;

use anyhow::ensure;
use countersign_flow::{CHECK_DELAY_MS, Flow, everywhere, order};
use countersign_launcher::{Which, wait_until};
use countersign_wire::proto::{SendMessageRequest, SendState};

everywhere!(every_message_is_signed_for_and_none_is_resent);

async fn every_message_is_signed_for_and_none_is_resent(mut flow: Flow) -> anyhow::Result<()> {
    flow.start(&Which::ALL).await?;
    let ids = flow.send(0, 100).await?;
    flow.all_signed(&ids).await?;
    let verified =
        async || flow.system.metric(Which::Callback, "countersign_checks_total").await.is_ok_and(|checks| checks >= 100.0);
    wait_until("100 checks to be judged", Duration::from_millis(20 * CHECK_DELAY_MS), verified).await?;
    flow.each_effected_once(&ids).await?;
    ensure!(flow.system.effects().await?.calls == 100, "the handler was called more than once per order");
    let resends = flow.system.metric(Which::Callback, "countersign_resend_orders_total").await?;
    ensure!(resends == 0.0, "{resends} resends without a loss");
    flow.finish().await
}

everywhere!(the_same_key_gives_the_same_answer_twice);

async fn the_same_key_gives_the_same_answer_twice(mut flow: Flow) -> anyhow::Result<()> {
    flow.start(&Which::ALL).await?;
    let mut upstream = flow.upstream().await?;
    let mut answers = Vec::new();
    for _ in 0..2 {
        let request = SendMessageRequest { message: Some(order(7)) };
        answers.extend(upstream.send_message(request).await?.into_inner().accepted);
    }
    ensure!(answers[0].id == answers[1].id && !answers[0].duplicate && answers[1].duplicate, "{answers:?}");
    ensure!(answers.iter().all(|answer| answer.state() == SendState::Confirmed), "{answers:?}");
    let mut other = order(7);
    other.body = "{\"order\":\"another\"}".into();
    let refused = upstream.send_message(SendMessageRequest { message: Some(other) }).await;
    let status = refused.err().map(|status| status.code());
    ensure!(status == Some(tonic::Code::AlreadyExists), "another body under the same key was answered {status:?}");
    flow.all_signed(std::slice::from_ref(&answers[0].id)).await?;
    flow.each_effected_once(std::slice::from_ref(&answers[0].id)).await?;
    flow.finish().await
}
