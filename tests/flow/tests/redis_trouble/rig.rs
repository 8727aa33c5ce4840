//! Services on a Redis of the test's own, a steady stream of orders, and what has to hold when that Redis is in trouble.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, PATIENCE};
use countersign_launcher::{Counts, Redis, RedisOptions, SUBSCRIPTION, Which, wait_until};
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::time::interval;

use crate::bad_input::private::{Own, flow, ready, unready};

/// Between two sends: a steady stream, and not a storm.
const PACE: Duration = Duration::from_millis(25);
/// Effects before the fault: messages flow.
const FLOWING: u64 = 20;
/// So many more are sent while Redis is away, and lie in the work queue.
const MORE: u32 = 20;
/// How long an order takes: some are in hand when the fault comes.
const HANDLING_MS: u64 = 40;
/// Downstream's account at Redis; the tests administrate as the usual one.
pub const ACCOUNT: &str = "app";

/// A Redis and services that use it under an account of their own.
pub struct Rig {
    pub flow: Flow,
    pub redis: Mutex<Redis>,
    dir: TempDir,
}

/// What a fault is to look like from outside.
pub struct Expected {
    /// What readiness says, all of it.
    pub words: &'static [&'static str],
    /// One of these reasons is counted.
    pub reasons: &'static [&'static str],
    /// Whether Redis loses what it knew.
    pub forgets: bool,
}

/// Starts Redis and, wired to it, all services; orders take a while.
pub async fn rig(test: &str) -> anyhow::Result<Rig> {
    let dir = TempDir::new()?;
    let redis = Redis::start(dir.path()).await?;
    redis.command(&format!("ACL SETUSER {ACCOUNT} on >hush ~* &* +@all")).await?;
    let url = redis.url().replace("redis://", &format!("redis://{ACCOUNT}:hush@"));
    wired(test, dir, redis, url).await
}

/// As [`rig`], with such a Redis. When it starts anew it knows no account but the usual one, so that is used.
pub async fn rig_with(test: &str, options: RedisOptions) -> anyhow::Result<Rig> {
    let dir = TempDir::new()?;
    let redis = Redis::start_with(dir.path(), options).await?;
    let url = redis.url();
    wired(test, dir, redis, url).await
}

async fn wired(test: &str, dir: TempDir, redis: Redis, url: String) -> anyhow::Result<Rig> {
    let mut flow = flow(test, Own { redis: Some(url), ..Own::default() }).await?;
    flow.start(&Which::ALL).await?;
    flow.system.behave(&json!({"delay_ms": HANDLING_MS})).await?;
    Ok(Rig { flow, redis: Mutex::new(redis), dir })
}

impl Rig {
    /// One command to Redis, as an administrator.
    pub async fn tell(&self, line: &str) -> anyhow::Result<()> {
        self.redis.lock().await.command(line).await.map(drop).with_context(|| line.to_owned())
    }

    /// What Redis has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("redis/redis.log")).unwrap_or_default()
    }

    /// Downstream's metric.
    pub async fn metric(&self, name: &str, label: &str) -> anyhow::Result<f64> {
        self.flow.system.look().metric(Which::Downstream, name, label).await
    }

    /// Lets orders flow while `disturb` runs, then asserts that each has had its effect, as often as it should, and is signed for.
    pub async fn under_load(self, forgets: bool, disturb: impl AsyncFnOnce(&Self) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let over = AtomicBool::new(false);
        let disturbance = async {
            let disturbed = async {
                self.flow.effects_reach(FLOWING).await?;
                disturb(&self).await?;
                ready(&self.flow).await
            };
            let outcome = disturbed.await;
            over.store(true, Ordering::Relaxed);
            outcome
        };
        let (ids, disturbed) = tokio::join!(send_until(&self.flow, &over), disturbance);
        disturbed?;
        let ids = ids?;
        self.flow.all_signed(&ids).await?;
        self.effects_are(&ids, forgets).await?;
        let depth = self.flow.ground.queue_depth(&format!("{SUBSCRIPTION}.limit")).await?;
        ensure!(depth == 0, "{depth} messages lie in .limit");
        let letters = self.flow.dead_letters(SUBSCRIPTION).await?;
        ensure!(letters.is_empty(), "{} dead letters", letters.len());
        self.flow.finish().await
    }

    /// Breaks Redis under load, asserts that nothing is processed meanwhile, mends it.
    pub async fn through(
        self,
        expected: Expected,
        break_it: impl AsyncFnOnce(&Self) -> anyhow::Result<()>,
        mend: impl AsyncFnOnce(&Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.under_load(expected.forgets, async |rig| {
            let before = rig.metric("countersign_claims_away_total", "").await?;
            break_it(rig).await?;
            unready(&rig.flow, &[Which::Downstream], "redis", expected.words).await?;
            rig.counted(&expected, before).await?;
            rig.stands_still().await?;
            unready(&rig.flow, &[Which::Downstream], "redis", expected.words).await?;
            mend(rig).await
        })
        .await
    }

    async fn counted(&self, expected: &Expected, before: f64) -> anyhow::Result<()> {
        let mut counted = 0.0;
        for reason in expected.reasons {
            counted += self.metric("countersign_claims_away_total", &format!("reason=\"{reason}\"")).await?;
        }
        let all = self.metric("countersign_claims_away_total", "").await?;
        ensure!(counted >= 1.0 && all > before, "{counted} counted for {:?}, {all} in all", expected.reasons);
        Ok(())
    }

    /// Waits until nobody consumes and nothing is being handled; then what is sent lies in the work queue, and the handler is not called.
    pub async fn stands_still(&self) -> anyhow::Result<()> {
        let queue = async || self.work_queue().await;
        wait_until("the consumer to be cancelled", PATIENCE, async || queue().await.is_ok_and(|(_, consumers)| consumers == 0))
            .await?;
        let counts = async || self.flow.system.look().counts().await;
        wait_until("what is in hand to be handled", PATIENCE, async || counts().await.is_ok_and(|counts| counts.in_flight == 0))
            .await?;
        let (before, (depth, _)) = (counts().await?, queue().await?);
        let waiting = async || queue().await.is_ok_and(|(now, _)| now >= depth + MORE);
        wait_until("what is sent to lie in the work queue", PATIENCE, waiting).await?;
        let (after, (_, consumers)) = (counts().await?, queue().await?);
        ensure!(after == before, "handled without a claim: {before:?}, then {after:?}");
        ensure!(consumers == 0, "it consumes");
        Ok(())
    }

    /// Ready messages of the work queue, and its consumers.
    async fn work_queue(&self) -> anyhow::Result<(u32, u32)> {
        let connection = Connection::connect(&self.flow.ground.amqp_url(), ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare(SUBSCRIPTION.into(), passive, FieldTable::default()).await?;
        Ok((queue.message_count(), queue.consumer_count()))
    }

    async fn effects_are(&self, ids: &[String], forgets: bool) -> anyhow::Result<()> {
        let effects = self.flow.system.effects().await?;
        let counted = self.metric("countersign_possible_duplicates_total", "").await?;
        for id in ids {
            ensure!(effects.effects.contains_key(id), "message {id} has had no effect");
        }
        ensure!(effects.distinct == ids.len() as u64, "{} have effects, {} were sent", effects.distinct, ids.len());
        let surplus = effects.total - effects.distinct;
        ensure!(forgets || surplus == 0, "{surplus} second effects");
        #[allow(clippy::cast_precision_loss, reason = "a few")]
        let surplus = surplus as f64;
        ensure!(surplus <= counted, "{surplus} second effects, {counted} counted");
        Ok(())
    }
}

/// How many calls the handler has had.
pub async fn counts(rig: &Rig) -> anyhow::Result<Counts> {
    rig.flow.system.look().counts().await
}

/// Sends one order after the other until told to stop.
async fn send_until(flow: &Flow, over: &AtomicBool) -> anyhow::Result<Vec<String>> {
    let (mut ids, mut pace) = (Vec::new(), interval(PACE));
    for number in 0.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        pace.tick().await;
        ids.extend(flow.send(number, 1).await?);
    }
    ensure!(!ids.is_empty(), "nothing was sent");
    Ok(ids)
}
