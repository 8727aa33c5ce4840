//! A server goes away (SIGKILL) while messages flow: readiness says so, and when it is back every accepted message is processed once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, PATIENCE};
use countersign_launcher::{Postgres, RabbitMq, Redis, RedisOptions, Which, wait_until};
use tempfile::TempDir;
use tokio::time::interval;

use super::private::{Own, flow, ready, unready};

/// Between two sends: a steady stream, and not a storm.
const PACE: Duration = Duration::from_millis(25);
/// Effects before the fault: messages flow.
const FLOWING: u64 = 5;

/// Sends one order after the other until told to stop; each is repeated under its key until it is accepted, as a caller does.
async fn send_until(flow: &Flow, over: &AtomicBool) -> anyhow::Result<Vec<String>> {
    let (mut ids, mut pace) = (Vec::new(), interval(PACE));
    let mut upstream_refused = 0;
    for number in 0.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        pace.tick().await;
        let accepted = tokio::sync::Mutex::new(None);
        wait_until("a send to be accepted", PATIENCE, async || {
            let sent = flow.send(number, 1).await.ok();
            let is_sent = sent.is_some();
            *accepted.lock().await = sent;
            is_sent
        })
        .await
        .inspect_err(|_| upstream_refused += 1)?;
        ids.extend(accepted.into_inner().context("no id")?);
    }
    ensure!(upstream_refused == 0, "{upstream_refused} sends were given up");
    Ok(ids)
}

/// Lets messages flow, disturbs, and asserts that every accepted message is processed once and signed for.
async fn through(mut flow: Flow, disturb: impl AsyncFnOnce(&Flow) -> anyhow::Result<()>) -> anyhow::Result<()> {
    flow.start(&Which::ALL).await?;
    let over = AtomicBool::new(false);
    let disturbance = async {
        let disturbed = async {
            flow.effects_reach(FLOWING).await?;
            disturb(&flow).await?;
            ready(&flow).await
        };
        let outcome = disturbed.await;
        over.store(true, Ordering::Relaxed);
        outcome
    };
    let (ids, disturbed) = tokio::join!(send_until(&flow, &over), disturbance);
    disturbed?;
    let ids = ids?;
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_goes_and_comes_back() -> anyhow::Result<()> {
    let dir = TempDir::new()?;
    let mut broker = RabbitMq::start(dir.path()).await?;
    let flow = flow("gone_broker", Own { amqp: Some(broker.amqp_url("/")), ..Own::default() }).await?;
    through(flow, async |flow| {
        broker.settle().await?;
        broker.kill9();
        // Upstream stays ready: it stores what it is sent, and publishes it later.
        unready(flow, &[Which::Downstream, Which::Callback], "broker", &["not connected to the broker"]).await?;
        broker.start_again().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_goes_and_comes_back() -> anyhow::Result<()> {
    let dir = TempDir::new()?;
    let mut redis = Redis::start_with(dir.path(), RedisOptions { appendonly: true, ..RedisOptions::default() }).await?;
    let flow = flow("gone_redis", Own { redis: Some(redis.url()), ..Own::default() }).await?;
    through(flow, async |flow| {
        redis.kill9();
        unready(flow, &[Which::Downstream], "redis", &["redis is not available", "refused"]).await?;
        redis.start_again().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_goes_and_comes_back() -> anyhow::Result<()> {
    let dir = TempDir::new()?;
    let mut postgres = Postgres::start(dir.path()).await?;
    let databases = (postgres.create_database("up").await?, postgres.create_database("msg").await?);
    let flow = flow("gone_database", Own { databases: Some(databases), ..Own::default() }).await?;
    through(flow, async |flow| {
        postgres.kill9();
        unready(flow, &[Which::Upstream], "database", &["the database is away"]).await?;
        unready(flow, &[Which::Callback], "database", &["no answer within 2000 ms"]).await?;
        postgres.start_again().await
    })
    .await
}
