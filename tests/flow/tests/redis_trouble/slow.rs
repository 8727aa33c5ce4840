//! It stands still, for less or for more than downstream waits for an answer (a second here; a lease lives for two).

use std::time::Duration;

use anyhow::ensure;
use countersign_flow::PATIENCE;
use countersign_launcher::wait_until;

use super::rig::{Expected, counts, rig};

const TIMED_OUT: &[&str] = &["timeout", "unreachable", "dropped"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shorter_than_the_time_out_nothing_is_given_up() -> anyhow::Result<()> {
    let rig = rig("redis_slow").await?;
    rig.under_load(false, async |rig| {
        for _ in 0..5 {
            let before = counts(rig).await?.calls;
            // Answers stand still, which the administrator's next command shows.
            rig.tell("CLIENT PAUSE 300 ALL").await?;
            let started = tokio::time::Instant::now();
            rig.tell("PING").await?;
            ensure!(started.elapsed() >= Duration::from_millis(100), "it did not pause");
            let going_on = async || counts(rig).await.is_ok_and(|counts| counts.calls > before);
            wait_until("messages to flow", PATIENCE, going_on).await?;
        }
        let away = rig.metric("countersign_claims_away_total", "").await?;
        ensure!(away == 0.0, "claims were given up {away} times");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_for_longer_than_time_out_and_lease() -> anyhow::Result<()> {
    let rig = rig("redis_stopped").await?;
    let expected = Expected { words: &["redis"], reasons: TIMED_OUT, forgets: false };
    rig.through(expected, async |rig| rig.redis.lock().await.pause(), async |rig| rig.redis.lock().await.resume()).await
}

/// Reads are answered; a probe that only reads would open the gate again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_stand_still() -> anyhow::Result<()> {
    let rig = rig("redis_no_writes").await?;
    let expected = Expected { words: &["redis"], reasons: TIMED_OUT, forgets: false };
    let break_it = async |rig: &super::rig::Rig| rig.tell("CLIENT PAUSE 600000 WRITE").await;
    rig.through(expected, break_it, async |rig| rig.tell("CLIENT UNPAUSE").await).await
}
