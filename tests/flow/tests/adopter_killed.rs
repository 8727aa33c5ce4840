//! The process that takes over from a dead one dies as well (SIGKILL), after each step of its adoption; a third one finishes.

use anyhow::ensure;
use countersign_flow::{Book, Flow, PATIENCE, Setup};
use countersign_launcher::{Which, wait_until};

/// More orders than are sent before the kills.
const MANY: u32 = 5_000;
/// The first process dies with its commit of this number, of at most eight orders each.
const COMMITS: u32 = 40;
/// What the last adopter says of each incarnation.
const ADOPTED: &str = "adopted: published and closed";

/// Makes two tests of each step: two processes on PostgreSQL, one after the other on SQLite.
macro_rules! after {
    ($($step:ident),* $(,)?) => {$(
        mod $step {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_postgres() -> anyhow::Result<()> {
                super::two_processes(&format!("adopt.{}", stringify!($step))).await
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_sqlite() -> anyhow::Result<()> {
                super::one_after_the_other(&format!("adopt.{}", stringify!($step))).await
            }
        }
    )*};
}

after!(after_claim, after_first_sweep, after_fence, after_second_sweep, before_close);

/// An upstream dies with messages committed and not published; returns what its callers were told.
async fn the_first_dies(flow: &mut Flow) -> anyhow::Result<Book> {
    flow.system.start(Which::Upstream, &format!("upstream.after_store={COMMITS}*off->1*return")).await?;
    let load = flow.load(Which::Upstream, 0..MANY);
    flow.system.dies_at(Which::Upstream, "upstream.after_store", PATIENCE).await?;
    let book = load.await??;
    ensure!(book.promised.len() >= COMMITS as usize && book.unanswered > 0, "it died under load: {book:?}");
    Ok(book)
}

/// The one that is left closes what both dead ones have left behind.
async fn the_third_finishes(flow: Flow, book: &Book) -> anyhow::Result<()> {
    let adopted = wait_until("both to be adopted", PATIENCE, async || {
        flow.system.process(Which::Upstream).is_ok_and(|process| process.log_text().matches(ADOPTED).count() >= 2)
    });
    adopted.await?;
    flow.books_agree(book, 1).await?;
    flow.finish().await
}

async fn two_processes(failpoint: &str) -> anyhow::Result<()> {
    let mut flow = Flow::with_replica("adopter_killed", 256).await?;
    flow.start(&[Which::Callback, Which::Downstream]).await?;
    flow.system.start(Which::Replica, &format!("{failpoint}=1*return")).await?;
    let beside = flow.load(Which::Replica, MANY..2 * MANY);
    let mut book = the_first_dies(&mut flow).await?;
    flow.system.dies_at(Which::Replica, failpoint, PATIENCE).await?;
    book.add(beside.await??);
    flow.start(&[Which::Upstream]).await?;
    the_third_finishes(flow, &book).await
}

async fn one_after_the_other(failpoint: &str) -> anyhow::Result<()> {
    let mut flow = Flow::new("adopter_killed", Setup { postgres: false, max_batch: 256 }).await?;
    flow.start(&[Which::Callback, Which::Downstream]).await?;
    let mut book = the_first_dies(&mut flow).await?;
    flow.system.start(Which::Upstream, &format!("{failpoint}=1*return")).await?;
    let load = flow.load(Which::Upstream, MANY..2 * MANY);
    flow.system.dies_at(Which::Upstream, failpoint, PATIENCE).await?;
    book.add(load.await??);
    flow.start(&[Which::Upstream]).await?;
    the_third_finishes(flow, &book).await
}
