//! Two upstreams on one PostgreSQL: one is paused (SIGSTOP) for longer than the lease, or both take over from the dead at once.

use std::time::Duration;

use anyhow::ensure;
use countersign_flow::{Book, Flow, PATIENCE};
use countersign_launcher::{Which, wait_until};
use tokio::task::JoinHandle;

/// Orders of one load.
const MANY: u32 = 800;
/// The commit of this number stays open between INSERT and COMMIT, while its process is paused.
const COMMITS: u32 = 20;
/// So long it would stay open without the pause; as failpoint and as duration.
const OPEN_MS: u64 = 4_000;
/// A transaction that stands open for so long is the one.
const STANDS_OPEN: Duration = Duration::from_millis(500);
/// Heartbeats in a lease: one every 200 ms in these tests, a lease of 2 s.
const BEATS_OF_A_LEASE: u64 = 10;
/// What an adopter says at its end, and at its beginning.
const ADOPTED: &str = "adopted: published and closed";
const ADOPTING: &str = "adopting what a stopped process left behind";
/// What an owner says that was taken for dead.
const LOST: &str = "adopted by another process, which took this one for dead";

type Loading = JoinHandle<anyhow::Result<Book>>;

/// Both upstreams under load, one of them paused with an open insert.
async fn paused_with_an_open_insert(statement_timeout_ms: u64) -> anyhow::Result<(Flow, [Loading; 2])> {
    let mut flow = Flow::with_replica("paused_owner", 256).await?;
    for which in Which::UPSTREAMS {
        let keys = format!("statement_timeout_ms = {statement_timeout_ms}\nlock_timeout_ms = 1000");
        flow.configure(which, "[database]", &keys)?;
    }
    flow.start(&[Which::Callback, Which::Downstream, Which::Replica]).await?;
    flow.system.start(Which::Upstream, &format!("store.after_insert={COMMITS}*off->1*sleep({OPEN_MS})")).await?;
    let loads = [flow.load(Which::Upstream, 0..MANY), flow.load(Which::Replica, MANY..2 * MANY)];
    flow.a_transaction_stands_open_for(STANDS_OPEN).await?;
    flow.system.process(Which::Upstream)?.pause()?;
    Ok((flow, loads))
}

async fn told(loads: [Loading; 2]) -> anyhow::Result<Book> {
    let mut book = Book::default();
    for load in loads {
        book.add(load.await??);
    }
    Ok(book)
}

/// The owner has noticed, and everything has its effect once.
async fn goes_on(flow: Flow, book: Book) -> anyhow::Result<()> {
    let log = flow.system.log_of(Which::Upstream)?;
    ensure!(log.contains(LOST), "the owner was not taken for dead");
    flow.books_agree(&book, 2).await?;
    let table = flow.table().await?;
    ensure!(table.incarnations >= 3, "a further incarnation for the owner: {table:?}");
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_waits_for_the_open_insert_of_a_paused_owner_and_finds_its_rows() -> anyhow::Result<()> {
    // Sessions may stand idle in a transaction for twice that: longer than this pause.
    let (flow, loads) = paused_with_an_open_insert(10_000).await?;
    let survivor = flow.system.process(Which::Replica)?;
    survivor.wait_for_log("a fence waits for an open transaction", PATIENCE).await?;
    flow.system.process(Which::Upstream)?.resume()?;
    survivor.wait_for_log(ADOPTED, PATIENCE).await?;
    let book = told(loads).await?;
    ensure!(book.unanswered == 0, "nobody's call fails: {book:?}");
    ensure!(flow.table().await?.tombstones == 0, "the open transaction was committed, and nobody was in doubt");
    goes_on(flow, book).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_outlives_the_open_insert_of_an_owner_that_is_paused_too_long() -> anyhow::Result<()> {
    // After twice that the server ends the idle session, which rolls it back.
    let (flow, loads) = paused_with_an_open_insert(1_500).await?;
    flow.system.process(Which::Replica)?.wait_for_log(ADOPTED, PATIENCE).await?;
    let owner = flow.system.process(Which::Upstream)?;
    owner.resume()?;
    owner.wait_for_log("the answer to a commit was lost", PATIENCE).await?;
    let book = told(loads).await?;
    ensure!(flow.table().await?.tombstones >= 1, "what was open is entombed, in an incarnation that is closed by now");
    goes_on(flow, book).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dying_owner_commits_while_the_fence_waits_is_found_by_the_second_scan() -> anyhow::Result<()> {
    let mut flow = Flow::with_replica("dying_owner", 256).await?;
    // One transaction at a time: the one that stands open is the one that its process dies of.
    flow.configure(Which::Upstream, "[upstream]", "committers = 1")?;
    flow.configure(Which::Replica, "[database]", "lock_timeout_ms = 1000")?;
    flow.start(&[Which::Callback, Which::Downstream, Which::Replica]).await?;
    let open = format!("store.after_insert={COMMITS}*off->1*sleep({OPEN_MS})");
    let dies = format!("store.after_commit_sent={COMMITS}*off->1*return");
    flow.system.start(Which::Upstream, &format!("{open};{dies}")).await?;
    let loads = [flow.load(Which::Upstream, 0..MANY), flow.load(Which::Replica, MANY..2 * MANY)];
    flow.a_transaction_stands_open_for(STANDS_OPEN).await?;
    flow.system.process(Which::Upstream)?.pause()?;
    flow.system.process(Which::Replica)?.wait_for_log("a fence waits for an open transaction", PATIENCE).await?;
    flow.system.process(Which::Upstream)?.resume()?;
    flow.system.dies_at(Which::Upstream, "store.after_commit_sent", PATIENCE).await?;
    let book = told(loads).await?;
    flow.books_agree(&book, 1).await?;
    let stored = flow.table().await?.stored.len();
    ensure!(stored > book.promised.len(), "{stored} are stored and had their effect, {} were promised", book.promised.len());
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_wakes_up_does_not_take_the_living_for_dead() -> anyhow::Result<()> {
    let mut flow = Flow::with_replica("awake", 256).await?;
    flow.start(&Which::REPLICATED).await?;
    let loads = [flow.load(Which::Upstream, 0..MANY), flow.load(Which::Replica, MANY..2 * MANY)];
    flow.effects_reach(50).await?;
    flow.system.process(Which::Replica)?.pause()?;
    flow.system.process(Which::Upstream)?.wait_for_log(ADOPTED, PATIENCE).await?;
    let sleeper = flow.system.process(Which::Replica)?;
    sleeper.resume()?;
    sleeper.wait_for_log(LOST, PATIENCE).await?;
    // Long enough for it to see every heartbeat stand still for a lease, if one did.
    let looked = async || flow.table().await.is_ok_and(|table| table.unclosed.len() == 2 && table.beats > BEATS_OF_A_LEASE * 2);
    wait_until("two leases to pass", PATIENCE, looked).await?;
    ensure!(!flow.system.log_of(Which::Replica)?.contains(ADOPTING), "it took the living for dead");
    flow.books_agree(&told(loads).await?, 2).await?;
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_find_the_same_dead_one_adopts_each() -> anyhow::Result<()> {
    let mut flow = Flow::with_replica("claim_race", 256).await?;
    flow.start(&[Which::Callback, Which::Downstream]).await?;
    let mut book = Book::default();
    for (which, first) in [(Which::Upstream, 0), (Which::Replica, MANY)] {
        flow.system.start(which, &format!("upstream.after_store={COMMITS}*off->1*return")).await?;
        let load = flow.load(which, first..first + MANY);
        flow.system.dies_at(which, "upstream.after_store", PATIENCE).await?;
        book.add(load.await??);
    }
    ensure!(flow.table().await?.unclosed.len() == 2, "two dead ones");
    for which in Which::UPSTREAMS {
        flow.system.spawn(which, "")?;
    }
    for which in Which::UPSTREAMS {
        flow.system.ready(which).await?;
    }
    let said = |what: &str| -> usize {
        let count = |which| flow.system.process(which).map_or(0, |process| process.log_text().matches(what).count());
        Which::UPSTREAMS.into_iter().map(count).sum()
    };
    wait_until("both to be adopted", PATIENCE, async || said(ADOPTED) >= 2).await?;
    flow.books_agree(&book, 2).await?;
    ensure!((said(ADOPTING), said(ADOPTED)) == (2, 2), "{} began, {} ended", said(ADOPTING), said(ADOPTED));
    flow.finish().await
}
