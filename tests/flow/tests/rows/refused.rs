//! What a consumer has said against a message: its handler refuses it, or has signed another content under its id.

use anyhow::ensure;
use countersign_flow::{Flow, Setup};
use countersign_launcher::{SUBSCRIPTION, Which};
use serde_json::json;

use super::{book_has, lost, ordered};

on_both!(what_the_handler_refuses_is_parked_as_rejected_and_never_sent_again);

async fn what_the_handler_refuses_is_parked_as_rejected_and_never_sent_again(test: &str, setup: Setup) -> anyhow::Result<()> {
    let mut flow = Flow::new(test, setup).await?;
    flow.start(&Which::ALL).await?;
    flow.system.behave(&json!({"status": 422, "for": 2})).await?;
    let bad = flow.send(0, 2).await?;
    flow.all_in_state(&bad, "parked").await?;
    let good = flow.send(2, 1).await?;
    flow.all_signed(&good).await?;
    for id in &bad {
        flow.parked_because(id, SUBSCRIPTION, "rejected").await?;
        flow.never_resent(id, SUBSCRIPTION).await?;
    }
    ensure!(ordered(&flow).await? == 0.0, "what was refused was ordered again");
    book_has(&flow, 3, &[&good[0]]).await?;
    flow.finish().await
}

on_both!(what_was_done_under_another_fingerprint_is_parked_as_a_conflict);

/// The genuine message is lost, and another content under its id is processed in its place.
async fn what_was_done_under_another_fingerprint_is_parked_as_a_conflict(test: &str, setup: Setup) -> anyhow::Result<()> {
    let mut flow = Flow::new(test, setup).await?;
    let ids = lost(&mut flow, 1).await?;
    flow.forge(&ids[0], "00112233445566778899aabbccddeeff").await?;
    flow.start(&[Which::Downstream]).await?;
    flow.deliveries_settled(1).await?;
    flow.start(&[Which::Callback]).await?;
    flow.all_in_state(&ids, "parked").await?;
    flow.parked_because(&ids[0], SUBSCRIPTION, "fingerprint_conflict").await?;
    flow.never_resent(&ids[0], SUBSCRIPTION).await?;
    ensure!(ordered(&flow).await? == 0.0, "a conflict was ordered again");
    // The forged one's effect is all there is, and callback says that something is wrong.
    book_has(&flow, 1, &[&ids[0]]).await?;
    let counted =
        flow.system.look().metric(Which::Callback, "countersign_invariant_violations_total", "invariant=\"I8\"").await?;
    ensure!((counted - 1.0).abs() < f64::EPSILON, "{counted} conflicts were counted");
    for which in Which::ALL.into_iter().rev() {
        flow.system.stop(which).await?;
    }
    Ok(())
}
