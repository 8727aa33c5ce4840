//! SIGKILL at each point, with messages before it, beside it and behind it.
//!
//! Of 20 messages three stand in the handler, one after the other passes by them, until downstream dies with one of those at the point; the rest
//! has been handed out or waits in the queue. Then downstream is started again.
//!
//! Whoever signs holds no handler any more, so at the points of a receipt the next message would be in it: there they come one by one, and the
//! rest only when downstream is dead.

use anyhow::{Context as _, ensure};
use countersign_delivery::topology::Guard;
use countersign_flow::{CONCURRENCY, Guarded, Hold, PATIENCE, Setup};
use countersign_launcher::{Which, wait_until};

use super::{HELD_BEFORE_EFFECT, KILLED, POSTGRES, POSTGRES_PLAIN, Promise, Row, SQLITE, SQLITE_PLAIN};

/// No point is named.
const EVERYWHERE: &[&str] = &[];

const MESSAGES: u32 = 20;
/// Messages in the handler, where they stay: one handler is left for the others.
const HELD: u32 = CONCURRENCY - 1;
const CONSUMED: &str = "countersign_consume_total";
/// The points of a receipt.
const SIGNING: [&str; 2] = ["downstream.after_receipt_publish", "downstream.after_receipt_confirm"];
/// Points that a message comes by under whatever guard.
const POINTS_OF_A_MESSAGE: usize = 6;
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
        _ => (PASSED + 1, Some(passed + 1)),
    }
}

async fn killed_at(world: &mut Guarded, row: &Row, promise: Promise) -> anyhow::Result<()> {
    let (hit, effects_by_then) = when(row.point);
    // Another prefetch than the handlers' number would hand out several at a time.
    let prefetch = if row.point == "downstream.after_delivery" { CONCURRENCY } else { CONCURRENCY * 2 };
    world.start(prefetch, &format!("{}={}*off->1*return", row.point, hit - 1)).await?;
    world.hold(HELD, Hold::BeforeEffect).await?;
    let signing = SIGNING.contains(&row.point);
    let mut ids = if signing { one_by_one(world).await? } else { world.send(MESSAGES).await? };
    world.flow.system.dies_at(Which::Downstream, row.point, PATIENCE).await?;
    if signing {
        ids.extend(world.send_free(MESSAGES - u32::try_from(ids.len())?).await?);
    }
    world.let_go().await?;
    world.checks()?;
    if let Some(expected) = effects_by_then.filter(|_| world.can_hold()) {
        let effects: u64 = world.effects(&ids).await?.values().sum();
        ensure!(effects == expected, "{effects} effects when it died, not {expected}");
    }
    world.start(prefetch, "").await?;
    world.flow.all_signed(&ids).await?;
    keeps(world, &ids, promise).await?;
    world.nobody_checks().await?;
    world.flow.system.stop(Which::Downstream).await
}

/// Those that are held, if they can be, then the ones that pass, each when the one before is signed, and the one at the point.
async fn one_by_one(world: &mut Guarded) -> anyhow::Result<Vec<String>> {
    let mut ids = if world.can_hold() { world.send(HELD).await? } else { Vec::new() };
    for passed in 1..=PASSED {
        ids.extend(world.send_free(1).await?);
        let look = world.flow.system.look();
        let signed = async || {
            look.metric(Which::Downstream, CONSUMED, "outcome=\"done\"").await.is_ok_and(|done| done >= f64::from(passed))
        };
        wait_until(&format!("{passed} messages to be signed"), PATIENCE, signed).await?;
    }
    ids.extend(world.send_free(1).await?);
    Ok(ids)
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

/// At these points, as far as a message comes by them under this guard; with none named at all of them.
async fn killed(guard: Guard, setup: Setup, points: &[&str]) -> anyhow::Result<()> {
    let mut world = Guarded::new("killed", guard, setup).await?;
    world.nobody_checks().await?;
    let mut cells = 0;
    for row in KILLED.iter().filter(|row| points.is_empty() || points.contains(&row.point)) {
        let Some(promise) = row.under(guard) else { continue };
        cells += 1;
        killed_at(&mut world, row, promise).await.with_context(|| format!("killed at {} under {}", row.point, guard.as_str()))?;
    }
    let expected = if points.is_empty() { POINTS_OF_A_MESSAGE } else { points.len() };
    ensure!(cells >= expected, "{cells} points, not {expected}");
    world.checks()?;
    world.flow.finish().await
}

macro_rules! cells {
    ($($name:ident: $guard:ident, $setup:ident, $points:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() -> anyhow::Result<()> {
            killed(Guard::$guard, $setup, $points).await
        }
    )*};
}

cells! {
    under_redis: Redis, SQLITE, EVERYWHERE;
    under_redis_plain: Redis, SQLITE_PLAIN, &["downstream.after_effect", "downstream.after_receipt_confirm"];
    under_redis_and_archive_on_sqlite: RedisArchive, SQLITE, EVERYWHERE;
    under_redis_and_archive_on_postgres: RedisArchive, POSTGRES, EVERYWHERE;
    under_tiered_on_sqlite: Tiered, SQLITE, EVERYWHERE;
    under_tiered_on_postgres: Tiered, POSTGRES, EVERYWHERE;
    under_inbox_on_sqlite: Inbox, SQLITE, EVERYWHERE;
    under_inbox_on_postgres: Inbox, POSTGRES, EVERYWHERE;
    under_inbox_plain: Inbox, POSTGRES_PLAIN, &["downstream.before_commit", "downstream.after_effect"];
}
