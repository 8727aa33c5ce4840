//! A message on its way back through a retry tier is waited for; one that is lost there is found by probes through that tier.

use anyhow::ensure;
use countersign_flow::{Flow, Setup};
use countersign_launcher::{SUBSCRIPTION, Which};
use serde_json::json;

use super::{GRACE_MS, book_has, delays, ordered};

/// The tiers of the system, milliseconds.
const USUAL: &str = "250, 500";
/// Orders that fail.
const ORDERS: u32 = 3;

on_both!(what_goes_through_every_tier_is_waited_for);

async fn what_goes_through_every_tier_is_waited_for(test: &str, setup: Setup) -> anyhow::Result<()> {
    let mut flow = Flow::new(test, setup).await?;
    // Each far longer than silence would have to last.
    delays(&flow, "retry_delays_ms", USUAL, "4000, 4500")?;
    flow.start(&Which::ALL).await?;
    flow.system.behave(&json!({"status": 503, "for": 2 * ORDERS})).await?;
    let ids = flow.send(0, ORDERS).await?;
    for tier in [4_000, 4_500] {
        flow.queue_reaches(&format!("{SUBSCRIPTION}.retry.{tier}"), ORDERS).await?;
        flow.all_in_state(&ids, "retrying").await?;
    }
    flow.all_signed(&ids).await?;
    for id in &ids {
        flow.never_resent(id, SUBSCRIPTION).await?;
    }
    ensure!(ordered(&flow).await? == 0.0, "what was being retried was ordered again");
    let waited = flow.judged("wait").await?;
    ensure!(waited >= f64::from(2 * ORDERS), "callback has looked {waited} times while it was away");
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    book_has(&flow, u64::from(3 * ORDERS), &ids).await?;
    flow.finish().await
}

on_both!(what_a_tier_loses_is_sent_again_once_its_time_is_over);

async fn what_a_tier_loses_is_sent_again_once_its_time_is_over(test: &str, setup: Setup) -> anyhow::Result<()> {
    let mut flow = Flow::new(test, setup).await?;
    delays(&flow, "retry_delays_ms", USUAL, "4000")?;
    flow.figure("probe_grace_ms", GRACE_MS)?;
    flow.start(&Which::ALL).await?;
    flow.system.behave(&json!({"status": 503, "for": ORDERS})).await?;
    let ids = flow.send(0, ORDERS).await?;
    let tier = format!("{SUBSCRIPTION}.retry.4000");
    flow.queue_reaches(&tier, ORDERS).await?;
    let purged = flow.ground.purge(&tier).await?;
    ensure!(purged == ORDERS, "the purge hit {purged} of {ORDERS}");
    // What comes there now is a probe on the way that they took.
    flow.queue_reaches(&tier, 1).await?;
    flow.all_signed(&ids).await?;
    for id in &ids {
        flow.resent_once_because(id, SUBSCRIPTION, "lost: what was sent before probe ").await?;
        let told = flow.told(id, SUBSCRIPTION).await?;
        ensure!(told.iter().any(|said| said.what == "resent" && said.attempt == 2), "the attempt counts: {told:?}");
    }
    ensure!((ordered(&flow).await? - f64::from(ORDERS)).abs() < f64::EPSILON, "{} orders", ordered(&flow).await?);
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    book_has(&flow, u64::from(2 * ORDERS), &ids).await?;
    flow.finish().await
}
