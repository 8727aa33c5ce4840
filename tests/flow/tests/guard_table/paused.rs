//! SIGSTOP in the middle of the handler, until the lease is over and the broker has given the messages to another process, which goes on with
//! them; then the sleeper wakes up and finishes what it had begun. On `SQLite` there is no other process.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_delivery::topology::Guard;
use countersign_flow::{CONCURRENCY, Guarded, Hold, PATIENCE, Setup, counted_by};
use countersign_launcher::{Running, SUBSCRIPTION, Which, wait_until};

use super::{PAUSED, POSTGRES, SQLITE};

const MESSAGES: u32 = 20;
/// The broker closes the sleeper's connection when it has been silent for twice that.
const SHORT_HEARTBEAT: (&str, &str) = ("[broker]", "heartbeat_s = 1");
/// The business answers so long after the effect: long enough to be caught in between.
const ANSWERS_AFTER_MS: u64 = 8_000;
/// Its transactions may sit still for 20 s, the least there is.
const SHORT_TIMEOUT: (&str, &str) = ("[downstream]", "timeout_ms = 5000");
/// Longer than that.
const SESSION_ENDS: Duration = Duration::from_secs(45);

/// The sleeper, asleep with a message in each of its handlers and as many behind them.
async fn asleep(world: &mut Guarded, keys: &[(&str, &str)]) -> anyhow::Result<(Running, Vec<String>)> {
    let sleeper = world.start_another("sleeper", keys, "").await?;
    world.hold(CONCURRENCY, Hold::AfterEffect(ANSWERS_AFTER_MS)).await?;
    let ids = world.send(MESSAGES).await?;
    let all_held = async || world.held().await.is_ok_and(|held| held == u64::from(CONCURRENCY));
    wait_until("the messages to be held", PATIENCE, all_held).await?;
    // Within a transaction what is held has no effect yet, else it has.
    if !world.guard.in_transaction() {
        world.effects_reach(&ids, CONCURRENCY as usize).await?;
    }
    sleeper.pause()?;
    ensure!(world.held().await? == u64::from(CONCURRENCY), "an answer was on its way already");
    if world.guard.in_transaction() {
        world.let_go().await?;
    }
    Ok((sleeper, ids))
}

/// It finishes, and ends when it is told to.
async fn wakes_up(sleeper: &Running) -> anyhow::Result<()> {
    sleeper.resume()?;
    sleeper.terminate()?;
    let status = sleeper.wait(PATIENCE).await?;
    ensure!(status.success(), "the sleeper ended with {status}: {}", sleeper.log_text());
    Ok(())
}

/// Everything as promised: each message that was held, and all the others once.
async fn keeps(world: &Guarded, ids: &[String], sleeper: &Running) -> anyhow::Result<()> {
    let promise = PAUSED.under(world.guard).context("no promise")?;
    let effects = world.effects(ids).await?;
    let mut found: Vec<u64> = effects.values().copied().collect();
    found.sort_unstable();
    let (held, others) = (CONCURRENCY as usize, ids.len() - CONCURRENCY as usize);
    ensure!(found == [vec![1; others], vec![promise.effects; held]].concat(), "{effects:?}");
    let (by_successor, by_sleeper) = (world.counted().await?, counted_by(sleeper));
    let expected = promise.counted * u64::from(CONCURRENCY);
    ensure!(by_successor == expected, "the successor counted {by_successor} possible duplicates, not {expected}");
    ensure!(by_sleeper == 0, "the sleeper counted {by_sleeper}: what it did was counted by the one who did it again");
    Ok(())
}

/// Its successor does everything again before it wakes up.
async fn overtaken(guard: Guard, setup: Setup) -> anyhow::Result<()> {
    let mut world = Guarded::new("overtaken", guard, setup).await?;
    let (sleeper, ids) = asleep(&mut world, &[SHORT_HEARTBEAT]).await?;
    world.start(CONCURRENCY, "").await?;
    world.flow.all_signed(&ids).await?;
    wakes_up(&sleeper).await?;
    keeps(&world, &ids, &sleeper).await?;
    world.flow.finish().await
}

/// It wakes up while its successor finds its transactions open.
async fn wakes_in_time(guard: Guard) -> anyhow::Result<()> {
    let mut world = Guarded::new("in_time", guard, POSTGRES).await?;
    let (sleeper, ids) = asleep(&mut world, &[SHORT_HEARTBEAT]).await?;
    world.start(CONCURRENCY, "").await?;
    let look = world.flow.system.look().clone();
    let put_back = async || {
        let count = look.metric(Which::Downstream, "countersign_consume_total", "outcome=\"put_back\"").await;
        count.is_ok_and(|count| count >= f64::from(CONCURRENCY))
    };
    wait_until("the successor to put back what is in an open transaction", PATIENCE, put_back).await?;
    ensure!(world.effects(&ids[..CONCURRENCY as usize]).await?.values().all(|effects| *effects == 0), "nothing is committed");
    wakes_up(&sleeper).await?;
    world.flow.all_signed(&ids).await?;
    keeps(&world, &ids, &sleeper).await?;
    world.flow.finish().await
}

/// The database ends its sessions, which rolls back what it had begun; then its successor does it.
async fn wakes_too_late(guard: Guard) -> anyhow::Result<()> {
    let mut world = Guarded::new("too_late", guard, POSTGRES).await?;
    let (sleeper, ids) = asleep(&mut world, &[SHORT_HEARTBEAT, SHORT_TIMEOUT]).await?;
    world.start(CONCURRENCY, "").await?;
    let held = &ids[..CONCURRENCY as usize];
    let done = async || world.effects(held).await.is_ok_and(|effects| effects.values().all(|effects| *effects == 1));
    wait_until("the successor to handle what the sleeper had begun", SESSION_ENDS + PATIENCE, done).await?;
    world.flow.all_signed(&ids).await?;
    wakes_up(&sleeper).await?;
    keeps(&world, &ids, &sleeper).await?;
    world.flow.finish().await
}

/// A `SQLite` database belongs to one process: its successor is kept out until it has woken up, finished and ended.
async fn kept_out(guard: Guard) -> anyhow::Result<()> {
    let mut world = Guarded::new("kept_out", guard, SQLITE).await?;
    let (sleeper, ids) = if guard.in_transaction() {
        in_its_transaction(&mut world).await?
    } else {
        asleep(&mut world, &[SHORT_HEARTBEAT]).await?
    };
    let before = world.effects(&ids).await?;
    world.spawn(CONCURRENCY, "")?;
    world.flow.system.process(Which::Downstream)?.wait_for_log("in use by another process", PATIENCE).await?;
    let given_back = async || world.flow.ground.queue_depth(SUBSCRIPTION).await.is_ok_and(|depth| depth as usize >= ids.len());
    wait_until("the broker to give its messages back", PATIENCE, given_back).await?;
    ensure!(world.effects(&ids).await? == before, "there were effects while it slept");
    wakes_up(&sleeper).await?;
    world.flow.system.ready(Which::Downstream).await?;
    world.flow.all_signed(&ids).await?;
    let effects = world.effects(&ids).await?;
    ensure!(effects.values().all(|effects| *effects == 1), "{effects:?}");
    ensure!((world.counted().await?, counted_by(&sleeper)) == (0, 0), "nobody has done again what it had begun");
    world.flow.finish().await
}

/// The sleeper, asleep before the commit of its only transaction.
async fn in_its_transaction(world: &mut Guarded) -> anyhow::Result<(Running, Vec<String>)> {
    let failpoint = format!("downstream.before_commit=1*sleep({ANSWERS_AFTER_MS})");
    let sleeper = world.start_another("sleeper", &[SHORT_HEARTBEAT], &failpoint).await?;
    let ids = world.send(MESSAGES).await?;
    wait_until("its transaction to be open", PATIENCE, async || world.is_writing().await.is_ok_and(|writing| writing)).await?;
    sleeper.pause()?;
    ensure!(world.is_writing().await?, "its transaction was over already");
    Ok((sleeper, ids))
}

macro_rules! cells {
    ($($name:ident: $test:ident($($argument:expr),*);)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() -> anyhow::Result<()> {
            $test($($argument),*).await
        }
    )*};
}

cells! {
    overtaken_under_redis: overtaken(Guard::Redis, SQLITE);
    overtaken_under_redis_and_archive: overtaken(Guard::RedisArchive, POSTGRES);
    in_time_under_tiered: wakes_in_time(Guard::Tiered);
    in_time_under_inbox: wakes_in_time(Guard::Inbox);
    too_late_under_tiered: wakes_too_late(Guard::Tiered);
    too_late_under_inbox: wakes_too_late(Guard::Inbox);
    kept_out_under_redis_and_archive: kept_out(Guard::RedisArchive);
    kept_out_under_tiered: kept_out(Guard::Tiered);
    kept_out_under_inbox: kept_out(Guard::Inbox);
}
