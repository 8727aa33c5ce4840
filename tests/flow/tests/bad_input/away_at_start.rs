//! A server that is not there when the services start: they say so, live on, and go on when it comes.

use countersign_flow::Flow;
use countersign_launcher::{Postgres, RabbitMq, Redis, Which};
use tempfile::TempDir;

use super::private::{Own, flow, ready, unready};

/// Everything starts without waiting for anything.
fn spawn_all(flow: &mut Flow) -> anyhow::Result<()> {
    for which in Which::ALL {
        flow.system.spawn(which, "")?;
    }
    Ok(())
}

/// All is ready again, and what is sent now goes its way.
async fn healed(flow: Flow) -> anyhow::Result<()> {
    ready(&flow).await?;
    let ids = flow.send(0, 5).await?;
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_comes_later() -> anyhow::Result<()> {
    let dir = TempDir::new()?;
    let mut broker = RabbitMq::start(dir.path()).await?;
    broker.stop().await?;
    let mut flow = flow("away_broker", Own { amqp: Some(broker.amqp_url("/")), ..Own::default() }).await?;
    spawn_all(&mut flow)?;
    unready(&flow, &Which::ALL, "broker", &["cannot reach amqp://127.0.0.1", "refused"]).await?;
    broker.start_again().await?;
    healed(flow).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_comes_later() -> anyhow::Result<()> {
    let dir = TempDir::new()?;
    let mut redis = Redis::start(dir.path()).await?;
    redis.stop().await?;
    let mut flow = flow("away_redis", Own { redis: Some(redis.url()), ..Own::default() }).await?;
    spawn_all(&mut flow)?;
    unready(&flow, &[Which::Downstream], "redis", &["redis is not available", "refused"]).await?;
    redis.start_again().await?;
    healed(flow).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_comes_later() -> anyhow::Result<()> {
    let dir = TempDir::new()?;
    let mut postgres = Postgres::start(dir.path()).await?;
    let databases = (postgres.create_database("up").await?, postgres.create_database("msg").await?);
    postgres.stop().await?;
    let mut flow = flow("away_database", Own { databases: Some(databases), ..Own::default() }).await?;
    spawn_all(&mut flow)?;
    unready(
        &flow,
        &[Which::Upstream, Which::Callback],
        "database",
        &["PostgreSQL is not available", "nothing answers at 127.0.0.1", "refused"],
    )
    .await?;
    postgres.start_again().await?;
    healed(flow).await
}
