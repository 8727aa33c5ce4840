//! The rows of callback's verdict table that no other file shows, each on real servers: what is known, what callback makes of it, and
//! how often the message was sent again. What became of a message is told by the business service's own book.

use anyhow::ensure;
use countersign_flow::Flow;
use countersign_launcher::{SUBSCRIPTION, Which};

/// Makes two tests of one: on `SQLite` in batches, and on `PostgreSQL` in the plain scheme.
macro_rules! on_both {
    ($test:ident) => {
        mod $test {
            use countersign_flow::Setup;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_sqlite_in_batches() -> anyhow::Result<()> {
                super::$test(stringify!($test), Setup { postgres: false, max_batch: 256 }).await
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_postgres_plain() -> anyhow::Result<()> {
                super::$test(stringify!($test), Setup { postgres: true, max_batch: 1 }).await
            }
        }
    };
}

mod answers;
mod late;
mod refused;
mod silent;
mod swept;
mod tiers;

/// Long enough for a busy machine: what was sent again is signed within it, or looked at while it stands.
const GRACE_MS: u64 = 3_000;

/// Starts upstream, sends so many orders, and loses them in the work queue before anybody consumes.
async fn lost(flow: &mut Flow, count: u32) -> anyhow::Result<Vec<String>> {
    flow.start(&[Which::Upstream]).await?;
    let ids = flow.send(0, count).await?;
    flow.queue_reaches(SUBSCRIPTION, count).await?;
    let purged = flow.ground.purge(SUBSCRIPTION).await?;
    ensure!(purged == count, "the purge hit {purged} of {count}");
    Ok(ids)
}

/// Asserts that the business service was called so often, and has these effects and no other.
async fn book_has(flow: &Flow, calls: u64, effects: &[&str]) -> anyhow::Result<()> {
    let book = flow.system.effects().await?;
    let expected = effects.iter().map(|key| ((*key).to_owned(), 1)).collect();
    ensure!(book.calls == calls && book.effects == expected, "{calls} calls and {effects:?} were expected: {book:?}");
    Ok(())
}

/// Resends that upstream has been ordered, whatever became of them.
async fn ordered(flow: &Flow) -> anyhow::Result<f64> {
    flow.system.metric(Which::Upstream, "countersign_resends_total").await
}

/// Puts other delays into the topology, which nobody has read yet.
fn delays(flow: &Flow, key: &str, before: &str, after: &str) -> anyhow::Result<()> {
    let (file, before) = (flow.system.topology_file(), format!("{key} = [{before}]"));
    let topology = std::fs::read_to_string(&file)?;
    ensure!(topology.contains(&before), "the topology has no {before}: {topology}");
    Ok(std::fs::write(&file, topology.replace(&before, &format!("{key} = [{after}]")))?)
}
