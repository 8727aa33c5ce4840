//! The handler fails: for a while, or for good.

use anyhow::ensure;
use countersign_flow::{Flow, everywhere};
use countersign_launcher::Which;
use serde_json::json;

everywhere!(a_handler_that_fails_for_a_while_is_tried_again);

async fn a_handler_that_fails_for_a_while_is_tried_again(mut flow: Flow) -> anyhow::Result<()> {
    flow.start(&Which::ALL).await?;
    flow.system.behave(&json!({"status": 503, "for": 1})).await?;
    let ids = flow.send(0, 1).await?;
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    ensure!(flow.history(&ids[0], "resending").await? == 0, "what is being retried was taken for lost");
    flow.finish().await
}

everywhere!(what_the_handler_rejects_is_parked_and_can_be_resent_by_hand);

async fn what_the_handler_rejects_is_parked_and_can_be_resent_by_hand(mut flow: Flow) -> anyhow::Result<()> {
    flow.start(&Which::ALL).await?;
    flow.system.behave(&json!({"status": 422})).await?;
    let bad = flow.send(0, 1).await?;
    flow.all_in_state(&bad, "parked").await?;
    flow.dead_letters_reach("inventory.orders", 1).await?;
    ensure!(flow.system.effects().await?.total == 0, "a rejected message had an effect");
    flow.system.behave(&json!({})).await?;
    flow.resend_by_hand(&bad[0]).await?;
    flow.all_signed(&bad).await?;
    flow.each_effected_once(&bad).await?;
    flow.finish().await
}

everywhere!(a_slow_handler_is_not_taken_for_a_lost_message);

async fn a_slow_handler_is_not_taken_for_a_lost_message(mut flow: Flow) -> anyhow::Result<()> {
    flow.start(&Which::ALL).await?;
    flow.system.behave(&json!({"delay_ms": 8_000, "for": 1})).await?;
    let ids = flow.send(0, 1).await?;
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    ensure!(flow.history(&ids[0], "resending").await? == 0, "slow was taken for lost");
    flow.finish().await
}
