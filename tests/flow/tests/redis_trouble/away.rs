//! It is gone: killed, or in the middle of loading what it kept.

use countersign_flow::PATIENCE;
use countersign_launcher::{RedisOptions, Which, wait_until};

use crate::bad_input::private::unready;

use super::rig::{Expected, Rig, rig_with};

/// Keys that a slow loader takes seconds for.
const KEYS: u32 = 3_000;
const GONE: &[&str] = &["dropped", "unreachable"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_back_with_its_data() -> anyhow::Result<()> {
    let rig = rig_with("redis_killed", RedisOptions { appendonly: true, ..RedisOptions::default() }).await?;
    let expected = Expected { words: &["redis is not available"], reasons: GONE, forgets: false };
    rig.through(expected, kill, start_again).await
}

/// What is in hand is marked as done in the empty one before anything is consumed again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_back_with_nothing() -> anyhow::Result<()> {
    let rig = rig_with("redis_emptied", RedisOptions::default()).await?;
    let expected = Expected { words: &["redis is not available"], reasons: GONE, forgets: true };
    rig.through(expected, kill, start_again).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loading_what_it_kept() -> anyhow::Result<()> {
    let rig = rig_with("redis_loading", RedisOptions { appendonly: true, loads_slowly: true }).await?;
    for key in 0..KEYS {
        rig.tell(&format!("SET filler:{key} {}", "x".repeat(100))).await?;
    }
    // As a snapshot it is loaded key by key.
    rig.tell("BGREWRITEAOF").await?;
    wait_until("the file to be rewritten", PATIENCE, async || rig.log().contains("AOF rewrite finished successfully")).await?;
    rig.under_load(false, async |rig| {
        kill(rig).await?;
        let mut redis = rig.redis.lock().await;
        wait_until("it to be gone", PATIENCE, async || redis.spawn_again().is_ok()).await?;
        unready(&rig.flow, &[Which::Downstream], "redis", &["loading"]).await
    })
    .await
}

async fn kill(rig: &Rig) -> anyhow::Result<()> {
    rig.redis.lock().await.kill9();
    Ok(())
}

async fn start_again(rig: &Rig) -> anyhow::Result<()> {
    rig.redis.lock().await.start_again().await
}
