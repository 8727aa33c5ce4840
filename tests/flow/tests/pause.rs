//! An operator pauses a subscription: for both of its processes, through restarts, for longer than callback waits for anything.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use countersign_flow::{CHECK_DELAY_MS, Flow, PATIENCE, Setup, standings_at, subscriptions_at};
use countersign_launcher::{Extras, Program, Running, SUBSCRIPTION, Which, binary, free_port, wait_until};
use countersign_wire::proto::{ResumeSubscriptionRequest, SubscriptionStatus};
use serde_json::json;

use super::command::{SETUP, expect};

const REASON: &str = "a roll-out went wrong";
/// Longer than check delay, rechecks, grace, a doubled replacement of a probe, and what is overdue, one after the other.
const LONG: Duration = Duration::from_millis(CHECK_DELAY_MS * 22);
/// Before the pause, and while it lasts.
const BEFORE: u32 = 60;
const MEANWHILE: u32 = 20;

/// A second process of the same downstream, beside the one of the system.
struct Second {
    process: Running,
    grpc: String,
}

impl Second {
    async fn start(flow: &Flow) -> anyhow::Result<Self> {
        let (grpc, http) = (free_port()?, free_port()?);
        let process = Program::new(binary("downstream")?)
            .arg("--config")
            .arg(flow.ground.path("downstream.toml"))
            .env("COUNTERSIGN_GRPC__LISTEN", format!("127.0.0.1:{grpc}"))
            .env("COUNTERSIGN_HTTP__LISTEN", format!("127.0.0.1:{http}"))
            .log_to(flow.ground.path("second.log"))
            .spawn()?;
        let second = Self { process, grpc: format!("http://127.0.0.1:{grpc}") };
        wait_until("the second downstream to answer", PATIENCE, async || stands(&second.grpc).await.is_ok()).await?;
        Ok(second)
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.process.terminate()?;
        let status = self.process.wait(PATIENCE).await?;
        ensure!(status.success(), "the second downstream ended with {status}: {}", self.process.log_text());
        Ok(())
    }
}

/// How the subscription stands in the process at this address.
async fn stands(grpc: &str) -> anyhow::Result<SubscriptionStatus> {
    standings_at(grpc).await?.into_iter().find(|found| found.name == SUBSCRIPTION).context("it is not listed")
}

/// Until the process at this address has finished what it had begun, and has nothing in hand.
async fn stands_still(grpc: &str) -> anyhow::Result<()> {
    let still = async || {
        let status = stands(grpc).await;
        status.is_ok_and(|status| status.paused.is_some() && status.in_flight + status.waiting == 0)
    };
    wait_until("a paused process to stand still", PATIENCE, still).await
}

async fn nothing_was_resent(flow: &Flow, ids: &[String]) -> anyhow::Result<()> {
    let resends = flow.system.metric(Which::Callback, "countersign_resend_orders_total").await?;
    ensure!(resends == 0.0, "{resends} were ordered to be sent again");
    for id in ids {
        let lines = flow.deliveries().await?.into_iter().filter(|delivery| delivery.message_id == *id);
        ensure!(lines.into_iter().all(|delivery| delivery.attempt.unwrap_or_default().number <= 1), "{id} was sent again");
    }
    Ok(())
}

async fn paused_for_long(test: &str, setup: Setup) -> anyhow::Result<()> {
    let extras = Extras { downstream: "concurrency = 3\nprefetch = 8".into(), ..Extras::default() };
    let mut flow = Flow::with_extras(test, setup, extras).await?;
    flow.start(&Which::ALL).await?;
    let second = Second::start(&flow).await?;
    flow.system.behave(&json!({ "delay_ms": 300 })).await?;
    let mut ids = flow.send(0, BEFORE).await?;
    flow.effects_reach(4).await?;

    let paused = expect(&flow, 0, &["pause", SUBSCRIPTION, "--reason", REASON, "--by", "ada"]).await?;
    ensure!(paused["paused"]["reason"] == REASON && paused["paused"]["by"] == "ada", "{paused}");
    let first = flow.system.grpc_url(Which::Downstream);
    stands_still(&first).await?;
    stands_still(&second.grpc).await?;
    let began = Instant::now();
    let effects = flow.system.effects().await?;
    ensure!(effects.total == effects.calls && effects.total < u64::from(BEFORE), "{effects:?}");
    let finished: Vec<String> = effects.effects.keys().cloned().collect();
    flow.all_signed(&finished).await?;
    ids.extend(flow.send(BEFORE, MEANWHILE).await?);
    let acts = flow.system.look().metric(Which::Downstream, "countersign_operator_acts_total", "act=\"pause\"").await?;
    let shown = flow.system.metric(Which::Downstream, "countersign_subscription_paused").await?;
    ensure!((acts, shown) == (1.0, 1.0) && flow.system.look().is_ready(Which::Downstream).await, "{acts} {shown}");

    // Neither process forgets it by being started anew.
    flow.system.stop(Which::Downstream).await?;
    flow.start(&[Which::Downstream]).await?;
    second.stop().await?;
    let second = Second::start(&flow).await?;
    stands_still(&second.grpc).await?;
    wait_until("the pause to be long", PATIENCE, async || began.elapsed() > LONG).await?;
    stands_still(&first).await?;
    let listed = expect(&flow, 0, &["subscriptions"]).await?;
    ensure!(listed["subscriptions"][0]["paused"]["reason"] == REASON, "{listed}");
    let probes = flow.system.look().metric(Which::Callback, "countersign_probes_total", "outcome=\"replaced\"").await?;
    ensure!(probes >= 1.0, "callback has not asked in vain");
    ensure!(flow.system.effects().await?.calls == effects.calls, "something was handled while paused");
    nothing_was_resent(&flow, &ids).await?;

    flow.system.behave(&json!({})).await?;
    let mut client = subscriptions_at(&second.grpc).await?;
    let request = ResumeSubscriptionRequest { name: SUBSCRIPTION.into(), by: "ada".into() };
    ensure!(client.resume_subscription(request).await?.into_inner().was_paused, "it was paused");
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    nothing_was_resent(&flow, &ids).await?;
    ensure!(stands(&first).await?.paused.is_none(), "the first process goes on, too");
    second.stop().await?;
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_pause_costs_nothing_on_sqlite_in_batches() -> anyhow::Result<()> {
    paused_for_long("long_pause", Setup { postgres: false, max_batch: 256 }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_pause_costs_nothing_on_postgres_plain() -> anyhow::Result<()> {
    paused_for_long("long_pause", Setup { postgres: true, max_batch: 1 }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_pauses_lists_and_resumes_and_says_what_is_wrong() -> anyhow::Result<()> {
    let mut flow = Flow::new("pause_command", SETUP).await?;
    let said = expect(&flow, 3, &["subscriptions"]).await?;
    ensure!(said.as_str().is_some_and(|said| said.contains("downstream") && said.contains("--downstream")), "{said}");
    flow.start(&[Which::Downstream]).await?;
    let said = expect(&flow, 2, &["pause", "inventory.order", "--reason", REASON]).await?;
    ensure!(said.as_str().is_some_and(|said| said.contains("inventory.order\"") && said.contains(SUBSCRIPTION)), "{said}");
    expect(&flow, 2, &["pause", SUBSCRIPTION]).await?;
    expect(&flow, 2, &["pause", SUBSCRIPTION, "--reason", " "]).await?;
    expect(&flow, 2, &["resume", "nothing"]).await?;
    let listed = expect(&flow, 0, &["subscriptions"]).await?;
    let one = &listed["subscriptions"][0];
    ensure!(one["name"] == SUBSCRIPTION && one["guard"] == "redis" && one["breaker"] == "closed", "{listed}");
    ensure!(one["paused"].is_null() && one["concurrency"] == 32 && one["rate_per_second"].is_null(), "{listed}");
    expect(&flow, 0, &["pause", SUBSCRIPTION, "--reason", REASON]).await?;
    let again = expect(&flow, 0, &["pause", SUBSCRIPTION, "--reason", "still"]).await?;
    ensure!(again["paused"]["reason"] == "still", "{again}");
    let resumed = expect(&flow, 0, &["resume", SUBSCRIPTION]).await?;
    ensure!(resumed["was_paused"] == true && resumed["paused"].is_null(), "{resumed}");
    ensure!(expect(&flow, 0, &["resume", SUBSCRIPTION]).await?["was_paused"] == false, "it was not paused any more");
    let refused = flow.system.look().metric(Which::Downstream, "countersign_operator_acts_total", "result=\"refused\"").await?;
    ensure!((refused - 3.0).abs() < f64::EPSILON, "{refused} refused acts are counted");
    flow.finish().await
}
