//! Checks that no longer come due: nobody would notice, were it not for the canaries.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use countersign_flow::{CHECK_DELAY_MS, Flow, PATIENCE};
use countersign_launcher::{RabbitMq, Which, wait_until};
use lapin::options::QueueDeleteOptions;
use lapin::{Connection, ConnectionProperties};
use serde_json::json;
use tempfile::TempDir;

use crate::bad_input::private::{Own, flow};
use crate::command::expect;

/// Between two canaries of a tier, milliseconds.
const INTERVAL_MS: u64 = 300;
/// The check tiers of the tests' topology, milliseconds.
const TIERS_MS: [u64; 3] = [CHECK_DELAY_MS / 2, CHECK_DELAY_MS, 2 * CHECK_DELAY_MS];
/// A tier counts as silent when its newest canary should have been back for so long: many times what one takes.
const SILENT: Duration = Duration::from_secs(5);
/// What the broker has dead-lettered from quorum queues because it expired, with this strategy.
const EXPIRED: &str = "#{messages_dead_lettered_expired_total := #{values := Values}} = rabbit_global_counters:prometheus_format(), \
                       lists:sum([V || {Labels, V} <- maps:to_list(Values), lists:sort(Labels) =:= \
                       lists:sort([{queue_type, rabbit_quorum_queue}, {dead_letter_strategy, STRATEGY}])]).";

/// One virtual host of a broker of its own, whose policies and counters are nobody else's; callback declares nothing by itself.
async fn silent_system() -> anyhow::Result<(TempDir, RabbitMq, Flow)> {
    let dir = TempDir::new()?;
    let broker = RabbitMq::start(dir.path()).await?;
    let flow = flow("canary", Own { amqp: Some(broker.amqp_url("/")), ..Own::default() }).await?;
    flow.configure(Which::Callback, "[callback]", &format!("canary_interval_ms = {INTERVAL_MS}"))?;
    let file = flow.ground.path("callback.toml");
    std::fs::write(&file, std::fs::read_to_string(&file)?.replace("apply = true", "apply = false"))?;
    Ok((dir, broker, flow))
}

/// One metric of callback, for one tier.
async fn of_tier(flow: &Flow, name: &str, delay_ms: u64) -> anyhow::Result<f64> {
    flow.system.look().metric(Which::Callback, name, &format!("delay_ms=\"{delay_ms}\"")).await
}

/// Since when the newest canary that came back was due, as an alert computes it.
async fn age(flow: &Flow, delay_ms: u64) -> anyhow::Result<f64> {
    let due = of_tier(flow, "countersign_canary_due_timestamp_seconds", delay_ms).await?;
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64() - due)
}

/// Waits until so many more canaries have come back from every tier, the newest a moment ago.
async fn more_return(flow: &Flow, more: f64) -> anyhow::Result<()> {
    for delay_ms in TIERS_MS {
        let before = of_tier(flow, "countersign_canary_returned_total", delay_ms).await?;
        wait_until(&format!("canaries of tier {delay_ms} to come back"), PATIENCE, async || {
            let returned = of_tier(flow, "countersign_canary_returned_total", delay_ms).await;
            returned.is_ok_and(|returned| returned >= before + more)
                && age(flow, delay_ms).await.is_ok_and(|age| age < SILENT.as_secs_f64())
        })
        .await?;
    }
    Ok(())
}

/// How many messages of quorum queues the broker has dead-lettered because they expired.
async fn expired(broker: &RabbitMq, strategy: &str) -> anyhow::Result<u64> {
    let said = broker.ctl(&["eval", &EXPIRED.replace("STRATEGY", strategy)]).await?;
    said.trim().parse().with_context(|| said.clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn canaries_stop_when_checks_no_longer_come_due_and_come_back_when_they_do() -> anyhow::Result<()> {
    let (_dir, broker, mut flow) = silent_system().await?;
    let topology = flow.system.topology_file().display().to_string();
    let amqp = broker.amqp_url("/");

    // Nothing is declared yet: said by a gauge, and no canary is sent into the void.
    flow.system.spawn(Which::Callback, "")?;
    wait_until("callback to see that the topology is missing", PATIENCE, async || {
        flow.system.metric(Which::Callback, "countersign_topology_problems").await.is_ok_and(|problems| problems > 5.0)
    })
    .await?;
    let apply = ["topology", "apply", "--file", &topology, "--amqp-url", &amqp];
    expect(&flow, 0, &apply).await?;
    flow.system.ready(Which::Callback).await?;
    let problems = flow.system.metric(Which::Callback, "countersign_topology_problems").await?;
    ensure!(problems < 1.0, "{problems} exchanges or queues are missing although the topology was applied");
    more_return(&flow, 2.0).await?;
    ensure!(expired(&broker, "at_least_once").await? > 0 && expired(&broker, "at_most_once").await? == 0);

    // A policy undoes at-least-once behind the right declaration: canaries still come, but the broker's counter says it.
    broker.broker().set_policy("/", "careless", "^countersign[.]checks[.]", &json!({"overflow": "drop-head"})).await?;
    more_return(&flow, 2.0).await?;
    wait_until("the broker to count what it dead-letters at most once", PATIENCE, async || {
        expired(&broker, "at_most_once").await.is_ok_and(|expired| expired > 0)
    })
    .await?;
    broker.ctl(&["clear_policy", "careless"]).await?;

    // Where checks come due is gone: canaries are still sent, and none comes back.
    let connection = Connection::connect(&amqp, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.queue_delete("countersign.checks".into(), QueueDeleteOptions::default()).await?;
    let sent = flow.system.metric(Which::Callback, "countersign_canary_sent_total").await?;
    for delay_ms in TIERS_MS {
        wait_until(&format!("tier {delay_ms} to be silent"), PATIENCE, async || {
            age(&flow, delay_ms).await.is_ok_and(|age| age > SILENT.as_secs_f64())
        })
        .await?;
    }
    ensure!(flow.system.metric(Which::Callback, "countersign_canary_sent_total").await? > sent, "they are sent all the same");

    expect(&flow, 0, &apply).await?;
    more_return(&flow, 2.0).await?;
    ensure!(flow.system.metric(Which::Callback, "countersign_canary_delay_seconds_count").await? > 0.0);
    ensure!(flow.deliveries().await?.is_empty(), "a canary leaves no row");
    flow.finish().await
}
