//! Redis loses everything (a restart without its data, a switch to an empty replica) between an effect and its ack.

use anyhow::{Context as _, ensure};
use countersign_delivery::topology::Guard;
use countersign_flow::{CONCURRENCY, Guarded, Hold, PATIENCE, Setup};
use countersign_launcher::{SUBSCRIPTION, Which};

use super::{FORGOTTEN, POSTGRES, Promise, SQLITE};

const MESSAGES: u32 = 20;
/// Handed out to the process that dies: one that is done, those that are held, and as many behind them.
const PREFETCH: u32 = CONCURRENCY * 2;
/// Messages in the handler, where they stay: one handler is left for the others.
const HELD: u32 = CONCURRENCY - 1;
const POINT: &str = "downstream.after_complete";

async fn forgotten(guard: Guard, setup: Setup) -> anyhow::Result<()> {
    let mut world = Guarded::new("forgotten", guard, setup).await?;
    // The business has its tables from a first life.
    world.start(PREFETCH, "").await?;
    world.nobody_checks().await?;
    world.flow.system.stop(Which::Downstream).await?;
    world.hold(HELD, Hold::BeforeEffect).await?;
    let ids = world.send(MESSAGES).await?;
    // So many are handed out at once, then.
    world.flow.queue_reaches(SUBSCRIPTION, MESSAGES).await?;
    world.spawn(PREFETCH, &format!("{POINT}=1*return"))?;
    world.flow.system.dies_at(Which::Downstream, POINT, PATIENCE).await?;
    world.let_go().await?;
    world.checks()?;
    let before = world.effects(&ids).await?;
    if world.can_hold() {
        ensure!(before.values().sum::<u64>() == 1, "the effect that is marked: {before:?}");
    }
    world.lose_redis().await?;
    world.start(PREFETCH, "").await?;
    world.flow.all_signed(&ids).await?;

    let promise = |row: usize| FORGOTTEN[row].under(guard).context("no promise");
    let (done, handed_out, untouched): (Promise, Promise, Promise) = (promise(0)?, promise(1)?, promise(2)?);
    let effects = world.effects(&ids).await?;
    for (id, found) in &effects {
        let expected = if before[id] > 0 && world.can_hold() { done.effects } else { handed_out.effects };
        ensure!(*found == expected, "message {id} has {found} effects, not {expected}; {effects:?}");
    }
    ensure!(handed_out.effects == untouched.effects, "what was not done has its effect once");
    let among = |promise: Promise, messages: u32| promise.counted * u64::from(messages);
    let expected = among(done, 1) + among(handed_out, PREFETCH - 1) + among(untouched, MESSAGES - PREFETCH);
    let counted = world.counted().await?;
    ensure!(counted == expected, "{counted} possible duplicates counted, not {expected}; effects: {effects:?}");
    world.flow.finish().await
}

macro_rules! cells {
    ($($name:ident: $guard:ident, $setup:ident;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() -> anyhow::Result<()> {
            forgotten(Guard::$guard, $setup).await
        }
    )*};
}

cells! {
    under_redis: Redis, SQLITE;
    under_redis_and_archive_on_sqlite: RedisArchive, SQLITE;
    under_redis_and_archive_on_postgres: RedisArchive, POSTGRES;
    under_tiered_on_sqlite: Tiered, SQLITE;
    under_tiered_on_postgres: Tiered, POSTGRES;
    under_inbox_on_postgres: Inbox, POSTGRES;
}
