//! Another program holds the file's only write lock for longer than callback's time-outs: a backup, a human with a shell.

use countersign_flow::{Flow, Setup};
use sea_orm::ConnectionTrait as _;

use super::rig::{Expected, SHORT, impatient, through};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_is_locked_by_another_writer() -> anyhow::Result<()> {
    let flow = Flow::new("msgdb_file_locked", Setup { postgres: false, max_batch: 256 }).await?;
    impatient(&flow, SHORT)?;
    let session = flow.msg_database().await?;
    let expected = Expected { dependency: "receipts", words: &["MSG DB", "locked"], can_be_read: true };
    let lock = async || Ok(session.execute_unprepared("BEGIN IMMEDIATE").await.map(drop)?);
    through(flow, expected, lock, async || Ok(session.execute_unprepared("ROLLBACK").await.map(drop)?)).await
}
