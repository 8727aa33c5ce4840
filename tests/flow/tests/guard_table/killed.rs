//! SIGKILL at each point, with messages before it, beside it and behind it.
//!
//! Of 20 messages three stand in the handler, one after the other passes by them, until downstream dies with one of those at the point; the rest
//! has been handed out or waits in the queue. Then downstream is started again.

use anyhow::{Context as _, ensure};
use countersign_delivery::topology::Guard;
use countersign_flow::{CONCURRENCY, Guarded, HELD, Hold, PATIENCE, Setup};
use countersign_launcher::Which;

use super::{HELD_BEFORE_EFFECT, KILLED, Promise, Row};

const MESSAGES: u32 = 20;
/// Messages that have passed by the point when it hits.
const PASSED: u32 = 5;

/// The hit of the point at which it kills, and how many effects there have been by then, if that is certain.
fn when(point: &str) -> (u32, Option<u64>) {
    let passed = u64::from(PASSED);
    match point {
        // A hit for all that is taken in at a time: after the first ones it comes one by one, for each one that has been settled.
        "downstream.after_delivery" => (CONCURRENCY + 2, None),
        // Those in the handler have come by.
        "downstream.after_claim" => (HELD + PASSED + 1, Some(passed)),
        "downstream.before_commit" => (PASSED + 1, Some(passed)),
        // Probes are signed for, too: only the first is a message's for certain.
        "downstream.after_receipt_publish" => (1, Some(1)),
        _ => (PASSED + 1, Some(passed + 1)),
    }
}

async fn killed_at(world: &mut Guarded, row: &Row, promise: Promise) -> anyhow::Result<()> {
    let (hit, effects_by_then) = when(row.point);
    // Another prefetch than the handlers' number would hand out several at a time.
    let prefetch = if row.point == "downstream.after_delivery" { CONCURRENCY } else { CONCURRENCY * 2 };
    world.start(prefetch, &format!("{}={}*off->1*return", row.point, hit - 1)).await?;
    // Its probes come when downstream is dead.
    let callback = world.flow.system.process(Which::Callback)?;
    callback.pause()?;
    world.hold(Hold::BeforeEffect).await?;
    let ids = world.send(MESSAGES).await?;
    world.flow.system.dies_at(Which::Downstream, row.point, PATIENCE).await?;
    world.let_go().await?;
    world.flow.system.process(Which::Callback)?.resume()?;
    if let Some(expected) = effects_by_then.filter(|_| world.can_hold()) {
        let effects: u64 = world.effects(&ids).await?.values().sum();
        ensure!(effects == expected, "{effects} effects when it died, not {expected}");
    }
    world.start(prefetch, "").await?;
    world.flow.all_signed(&ids).await?;
    keeps(world, &ids, promise).await?;
    world.flow.system.stop(Which::Downstream).await
}

/// One message is as promised, the held ones too, and all others have had their effect once and are not counted.
async fn keeps(world: &Guarded, ids: &[String], promise: Promise) -> anyhow::Result<()> {
    let held = HELD_BEFORE_EFFECT.under(world.guard).context("no promise")?;
    let effects = world.effects(ids).await?;
    let mut found: Vec<u64> = effects.values().copied().collect();
    found.sort_unstable();
    let others = usize::try_from(MESSAGES - 1)?;
    ensure!(held.effects == 1 && found == [vec![1; others], vec![promise.effects]].concat(), "{effects:?}");
    let expected = promise.counted + if world.can_hold() { held.counted * u64::from(HELD) } else { 0 };
    let counted = world.counted().await?;
    ensure!(counted == expected, "{counted} possible duplicates counted, not {expected}; effects: {effects:?}");
    Ok(())
}

async fn killed(guard: Guard, setup: Setup, points: &[&str]) -> anyhow::Result<()> {
    let mut world = Guarded::new("killed", guard, setup).await?;
    let mut cells = 0;
    for row in KILLED.iter().filter(|row| points.is_empty() || points.contains(&row.point)) {
        let Some(promise) = row.under(guard) else { continue };
        cells += 1;
        killed_at(&mut world, row, promise).await.with_context(|| format!("killed at {} under {}", row.point, guard.as_str()))?;
    }
    ensure!(cells > points.len() || cells > 1, "{cells} cells");
    world.flow.finish().await
}

const BATCHES: u32 = 256;
const PLAIN: u32 = 1;

macro_rules! cells {
    ($($name:ident: $guard:ident, $postgres:literal, $max_batch:ident, $points:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() -> anyhow::Result<()> {
            killed(Guard::$guard, Setup { postgres: $postgres, max_batch: $max_batch }, $points).await
        }
    )*};
}

cells! {
    under_redis: Redis, false, BATCHES, &[];
    under_redis_plain: Redis, false, PLAIN, &["downstream.after_effect", "downstream.after_receipt_confirm"];
}
