//! The answer to a COMMIT is lost, on a PostgreSQL whose connections are cut: the sender learns the truth, whichever it is.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_flow::{Book, Flow, Gate, PATIENCE, Setup, Side, Table};
use countersign_launcher::{Which, wait_until};
use tokio::task::JoinHandle;

/// Orders of the load.
const MANY: u32 = 400;
/// The commit of this number waits between INSERT and COMMIT, so that the gate can be shut.
const COMMITS: u32 = 20;
/// How long it waits; and how long it has stood open when the gate is shut, and when COMMIT is certainly said.
const WAIT_MS: u64 = 2_000;
const SHUT_AFTER: Duration = Duration::from_millis(500);
const SAID_AFTER: Duration = Duration::from_millis(WAIT_MS + 1_000);
/// What upstream says when it has to ask.
const IN_DOUBT: &str = "the answer to a commit was lost";

type Loading = JoinHandle<anyhow::Result<Book>>;

/// Upstream reaches its database through a gate; the gate is shut before a COMMIT.
async fn shut_before_a_commit(side: Side) -> anyhow::Result<(Flow, Gate, Loading)> {
    let mut flow = Flow::new("unknown_commit", Setup { postgres: true, max_batch: 256 }).await?;
    // One transaction at a time: it is the one that the gate is shut before.
    flow.configure(Which::Upstream, "[upstream]", "committers = 1")?;
    let file = flow.ground.path("upstream.toml");
    let configuration = std::fs::read_to_string(&file)?;
    let (_, url) = configuration.split_once("\"postgres://").context("no database")?;
    let (server, database) = url.split_once('@').and_then(|(_, url)| url.split_once('/')).context("no server in the URL")?;
    let database = database.split('"').next().unwrap_or_default();
    let gate = Gate::before(server.to_owned()).await?;
    let gated = configuration.replace(&format!("{server}/{database}"), &format!("{}/{database}", gate.address()));
    flow.start(&[Which::Callback, Which::Downstream]).await?;
    // The test's own sessions go straight to the server: they read the file as it was.
    std::fs::write(&file, gated)?;
    flow.system.start(Which::Upstream, &format!("store.after_insert={COMMITS}*off->1*sleep({WAIT_MS})")).await?;
    std::fs::write(&file, configuration)?;
    let load = flow.load(Which::Upstream, 0..MANY);
    flow.a_transaction_stands_open_for(SHUT_AFTER).await?;
    gate.hold(side);
    Ok((flow, gate, load))
}

async fn cut_and_settled(flow: Flow, gate: Gate, side: Side, load: Loading) -> anyhow::Result<Table> {
    gate.cut();
    gate.release(side);
    flow.system.process(Which::Upstream)?.wait_for_log(IN_DOUBT, PATIENCE).await?;
    let book = load.await??;
    ensure!(book.promised.len() >= COMMITS as usize, "under load: {book:?}");
    flow.books_agree(&book, 1).await?;
    let table = flow.table().await?;
    flow.finish().await?;
    Ok(table)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_found_to_have_happened() -> anyhow::Result<()> {
    let (flow, gate, load) = shut_before_a_commit(Side::Server).await?;
    // COMMIT gets through, its answer does not.
    wait_until("COMMIT to be carried out", PATIENCE, async || flow.open_transactions().await.is_ok_and(|open| open == 0)).await?;
    let table = cut_and_settled(flow, gate, Side::Server, load).await?;
    ensure!(table.tombstones == 0, "it was committed: {} tombstones", table.tombstones);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_never_arrived_is_entombed_and_its_messages_are_stored_again() -> anyhow::Result<()> {
    let (flow, gate, load) = shut_before_a_commit(Side::Client).await?;
    // COMMIT is said, and does not get through.
    flow.a_transaction_stands_open_for(SAID_AFTER).await?;
    let table = cut_and_settled(flow, gate, Side::Client, load).await?;
    ensure!(table.tombstones >= 1, "it was rolled back, and its place is taken");
    Ok(())
}
