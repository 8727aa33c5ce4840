//! A message that nobody can settle keeps the watermark back: new ones go into further incarnations, until all are alive that may be.

use anyhow::ensure;
use countersign_flow::{Flow, PATIENCE, Setup, WITNESS, order};
use countersign_launcher::{Extras, Which, wait_until};
use countersign_wire::proto::{NewMessage, SendMessagesRequest};

/// Small enough to be reached.
const FIGURES: &str = "max_unconfirmed = 30\nmax_outstanding = 40\nmax_incarnations = 3";
/// More than `max_outstanding`, in batches below `max_unconfirmed`.
const ROUND: u32 = 60;
const BATCH: u32 = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqlite() -> anyhow::Result<()> {
    stuck_messages_do_not_stop_the_others("further_sqlite", false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres() -> anyhow::Result<()> {
    stuck_messages_do_not_stop_the_others("further_postgres", true).await
}

async fn stuck_messages_do_not_stop_the_others(test: &str, postgres: bool) -> anyhow::Result<()> {
    let extras = Extras { topology: WITNESS.into(), ..Extras::default() };
    let mut flow = Flow::with_extras(test, Setup { postgres, max_batch: 256 }, extras).await?;
    flow.configure(Which::Upstream, "[upstream]", FIGURES)?;
    flow.start(&Which::ALL).await?;
    flow.unbind_work_queue().await?;
    let mut stuck = Vec::new();
    for round in 0..3 {
        stuck.extend(flow.send(round, 1).await?);
        send_witnesses(&flow, 1_000 + round * ROUND).await?;
        let alive = (round as usize + 2).min(3);
        let what = format!("{alive} incarnations to be alive");
        wait_until(&what, PATIENCE, async || flow.table().await.is_ok_and(|table| table.unclosed.len() == alive)).await?;
    }
    let upstream = flow.system.process(Which::Upstream)?;
    upstream.wait_for_log("max_incarnations are alive and the newest lags too", PATIENCE).await?;
    // It takes messages all the same, and all it has taken is stored.
    send_witnesses(&flow, 1_000 + 3 * ROUND).await?;
    let table = flow.table().await?;
    ensure!((table.unclosed.len(), table.stored.len()) == (3, 3 + 4 * ROUND as usize), "{table:?}");

    flow.bind_work_queue().await?;
    flow.all_signed(&stuck).await?;
    flow.each_effected_once(&stuck).await?;
    wait_until("the old ones to close", PATIENCE, async || flow.table().await.is_ok_and(|table| table.unclosed.len() == 1))
        .await?;
    flow.no_invariant_was_violated()?;
    flow.finish().await
}

async fn send_witnesses(flow: &Flow, first: u32) -> anyhow::Result<()> {
    for first in (first..first + ROUND).step_by(BATCH as usize) {
        let witness = |number| NewMessage { routing_key: "witness.sent".into(), ..order(number) };
        let messages = (first..first + BATCH).map(witness).collect();
        let answer = flow.upstream().await?.send_messages(SendMessagesRequest { messages }).await?.into_inner();
        ensure!(answer.results.len() == BATCH as usize, "{answer:?}");
    }
    Ok(())
}
