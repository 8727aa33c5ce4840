//! Orders die, and things come that nobody can read, while MSG DB is away: they wait in their queues, and each is stored once afterwards.

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, Setup};
use countersign_launcher::{Postgres, SUBSCRIPTION, Which};
use sea_orm::{ConnectionTrait as _, Statement};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::Mutex;

use super::rig::{Frozen, SHORT, impatient, read_only};
use crate::bad_input::private::{Own, flow, ready, unready};
use crate::dead_letters::{DEAD, QUARANTINE, dead, litter};

/// Orders that die, and messages that downstream cannot read: more than callback takes at a time.
const EACH: u32 = 50;
/// Unsettled letters of one queue, as callback takes them.
const PREFETCH: u32 = 32;
/// Receipts, and checks, that callback cannot read.
const FEW: u32 = 5;

/// Breaks MSG DB, has letters come, asserts that none of them is acked, kills callback if wanted, mends, and asserts that each is stored once
/// and nothing else is lost.
async fn through(
    mut flow: Flow,
    killed: bool,
    break_it: impl AsyncFnOnce() -> anyhow::Result<()>,
    mend: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    flow.start(&Which::ALL).await?;
    let first = flow.send(1_000, 1).await?;
    flow.all_signed(&first).await?;
    flow.system.behave(&json!({"status": 422})).await?;
    break_it().await?;
    let ids = flow.send(0, EACH).await?;
    litter(&flow, SUBSCRIPTION, EACH).await?;
    for queue in [DEAD, QUARANTINE] {
        unready(&flow, &[Which::Callback], queue, &["MSG DB"]).await?;
        // All but what callback holds, and goes on holding.
        flow.queue_reaches(queue, EACH - PREFETCH).await?;
    }
    if killed {
        flow.system.kill9(Which::Callback);
        for queue in [DEAD, QUARANTINE] {
            flow.queue_reaches(queue, EACH).await?;
        }
        flow.system.spawn(Which::Callback, "")?;
        unready(&flow, &[Which::Callback], "database", &[]).await?;
    }
    // These wait behind receipts that cannot be stored, or are set aside, which takes no database.
    litter(&flow, "countersign.receipts", FEW).await?;
    litter(&flow, "countersign.checks", FEW).await?;
    if !killed {
        unready(&flow, &[Which::Callback], DEAD, &["MSG DB"]).await?;
        let (dead, quarantined) = (flow.ground.queue_depth(DEAD).await?, flow.ground.queue_depth(QUARANTINE).await?);
        ensure!(
            dead == EACH - PREFETCH && quarantined >= EACH - PREFETCH,
            "acked: {dead} and {quarantined} are left in the queues"
        );
    }
    flow.system.behave(&json!({})).await?;
    mend().await?;
    ready(&flow).await?;
    each_is_stored_once(flow, &ids).await
}

async fn each_is_stored_once(flow: Flow, ids: &[String]) -> anyhow::Result<()> {
    let unread = EACH + 2 * FEW;
    flow.dead_letters_reach("", usize::try_from(EACH + unread)?).await?;
    for queue in [DEAD, QUARANTINE, "countersign.receipts", "countersign.checks"] {
        flow.queue_reaches(queue, 0).await?;
    }
    let rows = letters(&flow).await?;
    ensure!(rows == i64::from(EACH + unread), "{rows} letters for {} deaths", EACH + unread);
    flow.all_in_state(ids, "parked").await?;
    ensure!(dead(&flow, 0, "redrive", &["--all"]).await?["redriven"] == EACH, "not each was redriven");
    flow.all_signed(ids).await?;
    let effects = flow.system.effects().await?;
    ensure!(effects.total == u64::from(EACH) + 1, "{} effects of {} orders", effects.total, EACH + 1);
    ensure!(ids.iter().all(|id| effects.effects.get(id) == Some(&1)), "not each was handled once");
    for delivery in flow.deliveries().await? {
        ensure!(delivery.attempt.is_some_and(|attempt| attempt.number == 1), "sent again: {delivery:?}");
    }
    flow.no_invariant_was_violated()?;
    flow.finish().await
}

/// Letters as MSG DB's own table has them, whatever their state.
async fn letters(flow: &Flow) -> anyhow::Result<i64> {
    let database = flow.msg_database().await?;
    let count = Statement::from_string(database.get_database_backend(), "SELECT count(*) AS n FROM countersign_dead_letter");
    let row = database.query_one_raw(count).await?;
    database.close().await?;
    Ok(row.context("no count")?.try_get("", "n")?)
}

/// Callback is killed meanwhile, and comes back before MSG DB does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_callback_with_it() -> anyhow::Result<()> {
    let dir = TempDir::new()?;
    let postgres = Mutex::new(Postgres::start(dir.path()).await?);
    let url = postgres.lock().await.create_database("msg").await?;
    let flow = flow("letters_killed", Own { msg_db: Some(url), ..Own::default() }).await?;
    impatient(&flow, SHORT)?;
    let kill = async || {
        postgres.lock().await.kill9();
        Ok(())
    };
    through(flow, true, kill, async || postgres.lock().await.start_again().await).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_with_all_its_sessions() -> anyhow::Result<()> {
    let dir = TempDir::new()?;
    let postgres = Postgres::start(dir.path()).await?;
    let url = postgres.create_database("msg").await?;
    let flow = flow("letters_frozen", Own { msg_db: Some(url), ..Own::default() }).await?;
    impatient(&flow, SHORT)?;
    let own = flow.msg_database().await?;
    let frozen = Mutex::new(None);
    let freeze = async || {
        *frozen.lock().await = Some(Frozen::freeze(&postgres, &own).await?);
        Ok(())
    };
    let thaw = async || frozen.lock().await.as_mut().context("it was not frozen")?.thaw(&postgres);
    through(flow, false, freeze, thaw).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_read_only() -> anyhow::Result<()> {
    let flow = Flow::new("letters_read_only", Setup { postgres: true, max_batch: 256 }).await?;
    impatient(&flow, SHORT)?;
    let session = flow.msg_database().await?;
    through(flow, false, async || read_only(&session, "on").await, async || read_only(&session, "off").await).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_is_locked_by_another_writer() -> anyhow::Result<()> {
    let flow = Flow::new("letters_file_locked", Setup { postgres: false, max_batch: 256 }).await?;
    impatient(&flow, SHORT)?;
    let session = flow.msg_database().await?;
    let lock = async || Ok(session.execute_unprepared("BEGIN IMMEDIATE").await.map(drop)?);
    through(flow, false, lock, async || Ok(session.execute_unprepared("ROLLBACK").await.map(drop)?)).await
}
