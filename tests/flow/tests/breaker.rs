//! The endpoint of two subscriptions is out of order for longer than their retry tiers last.

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, PATIENCE, everywhere, order, standings_at};
use countersign_launcher::{SUBSCRIPTION, Which, wait_until};
use countersign_wire::proto::send_result::Result as Sent;
use countersign_wire::proto::{BreakerState, NewMessage, SendMessagesRequest, SubscriptionStatus};
use serde_json::json;

const AUDIT: &str = "audit.orders";
/// Failures in a row that open the breaker.
const FAILURES: u64 = 4;
/// Messages of each subscription that the outage begins with.
const FEW: u32 = 2;
/// Messages of each subscription that come while it lasts.
const MANY: u32 = 15;
/// Trials that fail: a message has three tries, so four messages cannot fail this often, and four times before, without one being buried,
/// unless trials spend nothing.
const TRIALS: u64 = 5;
/// Messages that the endpoint rejects: more than failures that open the breaker.
const REJECTED: u32 = 6;
const SAID: &str = "the handler fails again and again";

/// A second subscription that is delivered to the same endpoint.
fn beside(flow: &Flow) -> anyhow::Result<()> {
    let topology = flow.system.topology_file();
    let text = std::fs::read_to_string(&topology)?;
    let bind = "bind = [{ exchange = \"orders\", routing_key = \"audit.#\" }]";
    std::fs::write(topology, format!("{text}\n[[subscription]]\nname = {AUDIT:?}\nretry_delays_ms = [250, 500]\n{bind}\n"))?;
    let file = flow.ground.path("downstream.toml");
    let text = std::fs::read_to_string(&file)?;
    let endpoint = text.lines().find(|line| line.starts_with("endpoint = ")).context("no endpoint")?.to_owned();
    flow.configure(
        Which::Downstream,
        "[downstream]",
        &format!("breaker_failures = {FAILURES}\nbreaker_pause_ms = 200\nconcurrency = 1"),
    )?;
    let text = std::fs::read_to_string(&file)?;
    Ok(std::fs::write(file, format!("{text}\n[[downstream.subscription]]\nname = {AUDIT:?}\n{endpoint}\n"))?)
}

async fn send_to_audit(flow: &Flow, first: u32, count: u32) -> anyhow::Result<Vec<String>> {
    let messages =
        (first..first + count).map(|number| NewMessage { routing_key: "audit.order".into(), ..order(number) }).collect();
    let answer = flow.upstream().await?.send_messages(SendMessagesRequest { messages }).await?.into_inner();
    let id = |result: countersign_wire::proto::SendResult| match result.result {
        Some(Sent::Accepted(accepted)) => Ok(accepted.id),
        other => anyhow::bail!("not accepted: {other:?}"),
    };
    answer.results.into_iter().map(id).collect()
}

async fn standings(flow: &Flow) -> anyhow::Result<Vec<SubscriptionStatus>> {
    standings_at(&flow.system.grpc_url(Which::Downstream)).await
}

async fn calls_reach(flow: &Flow, calls: u64) -> anyhow::Result<()> {
    let reached = async || flow.system.effects().await.is_ok_and(|effects| effects.calls >= calls);
    wait_until(&format!("{calls} calls"), PATIENCE, reached).await
}

everywhere!(an_outage_buries_nothing_and_all_is_done_at_once_afterwards);

async fn an_outage_buries_nothing_and_all_is_done_at_once_afterwards(mut flow: Flow) -> anyhow::Result<()> {
    beside(&flow)?;
    flow.start(&Which::ALL).await?;
    does_not_open(&flow).await?;
    let before = flow.system.effects().await?.calls;

    flow.system.behave(&json!({"status": 503})).await?;
    let mut ids = flow.send(100, FEW).await?;
    ids.extend(send_to_audit(&flow, 200, FEW).await?);
    calls_reach(&flow, before + FAILURES + TRIALS).await?;
    let calls = flow.system.effects().await?.calls - before;
    // When it opens each subscription may have one more call under way; and a trial or two may have come since.
    ensure!(calls <= FAILURES + 2 + TRIALS + 2, "{calls} calls of an endpoint that is out of order");
    let open = standings(&flow).await?;
    ensure!(open.len() == 2 && open.iter().all(|status| status.breaker() != BreakerState::Closed), "they share one: {open:?}");
    ensure!(flow.system.metric(Which::Downstream, "countersign_breaker_open").await? > 1.0, "both wait");
    ensure!(flow.system.look().is_ready(Which::Downstream).await, "downstream itself is well");
    ids.extend(flow.send(300, MANY).await?);
    ids.extend(send_to_audit(&flow, 400, MANY).await?);
    let held = async || {
        let deliveries = flow.deliveries().await.unwrap_or_default();
        let held = deliveries.iter().filter(|delivery| ids.contains(&delivery.message_id) && delivery.state == "processing");
        held.count() >= usize::try_from(MANY).unwrap_or_default()
    };
    wait_until("what waits to be reported as held", PATIENCE, held).await?;

    flow.system.behave(&json!({})).await?;
    flow.all_signed(&ids).await?;
    let effects = flow.system.effects().await?.effects;
    ensure!(ids.iter().all(|id| effects.get(id) == Some(&1)), "one was done twice: {effects:?}");
    flow.dead_letters_reach(SUBSCRIPTION, usize::try_from(REJECTED)?).await?;
    flow.dead_letters_reach(AUDIT, 0).await?;
    ensure!(standings(&flow).await?.iter().all(|status| status.breaker() == BreakerState::Closed), "it is closed again");
    ensure!(flow.system.metric(Which::Downstream, "countersign_breaker_open").await? == 0.0, "nobody waits");
    ensure!(
        flow.system.metric(Which::Callback, "countersign_resend_orders_total").await? == 0.0,
        "what waited was taken for lost"
    );
    flow.finish().await
}

/// One failure less in a row than it takes, twice; and what is rejected says that the endpoint works.
async fn does_not_open(flow: &Flow) -> anyhow::Result<()> {
    for first in [0, 10] {
        flow.system.behave(&json!({"status": 503, "for": FAILURES - 1})).await?;
        let ids = flow.send(first, 10).await?;
        flow.all_signed(&ids).await?;
    }
    flow.system.behave(&json!({"status": 422})).await?;
    let bad = flow.send(20, REJECTED).await?;
    flow.all_in_state(&bad, "parked").await?;
    ensure!(!flow.system.log_of(Which::Downstream)?.contains(SAID), "the breaker opened");
    Ok(())
}
