//! Upstream dies (SIGKILL) on either side of a COMMIT, under load: stored or not, no promise is broken and nothing else is published.

use anyhow::ensure;
use countersign_flow::{Flow, PATIENCE, Setup};
use countersign_launcher::Which;

/// More orders than are sent before the kill.
const MANY: u32 = 5_000;
/// It dies with its commit of this number.
const COMMITS: u32 = 40;

/// Makes two tests of each point, one on each database.
macro_rules! at {
    ($($name:ident: $failpoint:literal;)*) => {$(
        mod $name {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_postgres() -> anyhow::Result<()> {
                super::killed_at(true, $failpoint).await
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_sqlite() -> anyhow::Result<()> {
                super::killed_at(false, $failpoint).await
            }
        }
    )*};
}

at! {
    before_commit: "store.after_insert";
    with_commit_on_its_way: "store.after_commit_sent";
}

async fn killed_at(postgres: bool, failpoint: &str) -> anyhow::Result<()> {
    let mut flow = Flow::new("commit_killed", Setup { postgres, max_batch: 256 }).await?;
    flow.start(&[Which::Callback, Which::Downstream]).await?;
    flow.system.start(Which::Upstream, &format!("{failpoint}={COMMITS}*off->1*return")).await?;
    let load = flow.load(Which::Upstream, 0..MANY);
    flow.system.dies_at(Which::Upstream, failpoint, PATIENCE).await?;
    let mut book = load.await??;
    ensure!(book.promised.len() >= COMMITS as usize / 2 && book.unanswered > 0, "it died under load: {book:?}");
    flow.start(&[Which::Upstream]).await?;
    book.add(flow.load(Which::Upstream, MANY..MANY + 100).await??);
    flow.books_agree(&book, 1).await?;
    flow.finish().await
}
