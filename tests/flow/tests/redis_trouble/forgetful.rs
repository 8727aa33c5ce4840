//! It answers, and has forgotten.

use anyhow::ensure;
use countersign_flow::PATIENCE;
use countersign_launcher::{Which, wait_until};

use super::rig::{counts, rig};

/// Claims in hand are lost; that each was nobody's when it was done is counted, and its mark is set all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushed_again_and_again_under_load() -> anyhow::Result<()> {
    let rig = rig("redis_flushed").await?;
    rig.under_load(true, async |rig| {
        for _ in 0..10 {
            let before = counts(rig).await?.calls;
            rig.tell("FLUSHALL").await?;
            let going_on = async || counts(rig).await.is_ok_and(|counts| counts.calls >= before + 5);
            wait_until("messages to flow", PATIENCE, going_on).await?;
        }
        let lost = rig.metric("countersign_possible_duplicates_total", "").await?;
        ensure!(lost > 0.0, "nothing was in hand when Redis was flushed");
        Ok(())
    })
    .await
}

/// A Redis that evicts keeps messages flowing; that it may forget is said in log and metric (and by `countersign doctor`).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evicting_what_has_been_done_is_warned_of() -> anyhow::Result<()> {
    let rig = rig("redis_evicts").await?;
    rig.tell("CONFIG SET maxmemory-policy allkeys-lru").await?;
    rig.tell("CONFIG SET maxmemory 3mb").await?;
    rig.under_load(true, async |rig| {
        for key in 0..3_000 {
            rig.tell(&format!("SET filler:{key} {}", "x".repeat(1_000))).await?;
        }
        let evicted = rig.redis.lock().await.command("OBJECT FREQ filler:0").await;
        ensure!(evicted.is_err(), "nothing was evicted");
        let warned = async || rig.metric("countersign_redis_evicts", "").await.is_ok_and(|evicts| evicts > 0.5);
        wait_until("the warning", PATIENCE * 2, warned).await?;
        let log = rig.flow.system.log_of(Which::Downstream)?;
        ensure!(log.contains("allkeys-lru") && log.contains("set maxmemory-policy noeviction"), "{log}");
        Ok(())
    })
    .await
}
