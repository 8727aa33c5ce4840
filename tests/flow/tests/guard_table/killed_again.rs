//! One message at whose start the process dies again and again: until it is poison it is tried again, then it goes to the dead-letter queue, once.

use anyhow::{Context as _, ensure};
use countersign_delivery::topology::Guard;
use countersign_flow::{CONCURRENCY, Guarded, PATIENCE, Setup};
use countersign_launcher::{SUBSCRIPTION, Which};

use super::{POSTGRES, SQLITE};

const POINT: &str = "downstream.after_claim";
/// Crashes that a message may cause, by default.
const MAX_CRASHES: u32 = 3;

/// How many starts a guard lets die before the message is poison. A first delivery's start is not written down in a database.
const fn deadly_starts(guard: Guard) -> u32 {
    if guard.uses_redis() { MAX_CRASHES + 1 } else { MAX_CRASHES + 2 }
}

/// The first message of a new world, after so many lives that died with it in their hands.
async fn after_crashes(guard: Guard, setup: Setup, crashes: u32) -> anyhow::Result<(Guarded, Vec<String>)> {
    let mut world = Guarded::new("killed_again", guard, setup).await?;
    let mut ids = Vec::new();
    for life in 0..crashes {
        let failpoint = format!("{POINT}=1*return");
        if life == 0 {
            world.start(CONCURRENCY, &failpoint).await?;
            ids = world.send(1).await?;
        } else {
            // The message waits for it: it may be dead before anybody sees it ready.
            world.spawn(CONCURRENCY, &failpoint)?;
        }
        let died = world.flow.system.dies_at(Which::Downstream, POINT, PATIENCE).await;
        died.with_context(|| format!("in life {life} of {crashes}"))?;
    }
    world.start(CONCURRENCY, "").await?;
    Ok((world, ids))
}

async fn crashes_too_often(guard: Guard, setup: Setup) -> anyhow::Result<()> {
    let (world, ids) = after_crashes(guard, setup, deadly_starts(guard)).await?;
    world.flow.all_in_state(&ids, "parked").await?;
    let deliveries = world.flow.deliveries().await?;
    let parked = deliveries.iter().find(|delivery| delivery.message_id == ids[0]).context("unknown")?;
    ensure!(parked.reason.contains("poison"), "{parked:?}");
    world.flow.dead_letters_reach(SUBSCRIPTION, 1).await?;
    ensure!(world.effects(&ids).await?[&ids[0]] == 0, "it was handled");
    ensure!(world.counted().await? == 0, "what is not handled again is no possible duplicate");
    // The others live.
    let mut world = world;
    let more = world.send(5).await?;
    world.flow.all_signed(&more).await?;
    ensure!(world.flow.dead_letters(SUBSCRIPTION).await?.len() == 1, "it is there once");
    world.flow.finish().await
}

async fn crashes_as_often_as_it_may(guard: Guard, setup: Setup) -> anyhow::Result<()> {
    let (world, ids) = after_crashes(guard, setup, deadly_starts(guard) - 1).await?;
    world.flow.all_signed(&ids).await?;
    ensure!(world.effects(&ids).await?[&ids[0]] == 1, "one effect");
    let counted = world.counted().await?;
    let expected = u64::from(!guard.in_transaction());
    ensure!(counted == expected, "{counted} possible duplicates counted by the life that handled it, not {expected}");
    world.flow.finish().await
}

macro_rules! cells {
    ($($name:ident: $test:ident, $guard:ident, $setup:ident;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() -> anyhow::Result<()> {
            $test(Guard::$guard, $setup).await
        }
    )*};
}

cells! {
    too_often_under_redis: crashes_too_often, Redis, SQLITE;
    too_often_under_inbox_on_sqlite: crashes_too_often, Inbox, SQLITE;
    too_often_under_inbox_on_postgres: crashes_too_often, Inbox, POSTGRES;
    as_often_as_it_may_under_redis: crashes_as_often_as_it_may, Redis, SQLITE;
    as_often_as_it_may_under_inbox: crashes_as_often_as_it_may, Inbox, POSTGRES;
}
