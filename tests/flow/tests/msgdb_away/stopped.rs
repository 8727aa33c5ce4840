//! The server stands still, or is gone and comes back.

use anyhow::Context as _;
use countersign_launcher::Postgres;
use tempfile::TempDir;
use tokio::sync::Mutex;

use super::rig::{Expected, Frozen, SHORT, impatient, through};
use crate::bad_input::private::{Own, flow};

const AWAY: Expected = Expected { dependency: "database", words: &[" "], can_be_read: false };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_started_again() -> anyhow::Result<()> {
    let dir = TempDir::new()?;
    let postgres = Mutex::new(Postgres::start(dir.path()).await?);
    let url = postgres.lock().await.create_database("msg").await?;
    let flow = flow("msgdb_killed", Own { msg_db: Some(url), ..Own::default() }).await?;
    impatient(&flow, SHORT)?;
    let kill = async || {
        postgres.lock().await.kill9();
        Ok(())
    };
    through(flow, AWAY, kill, async || postgres.lock().await.start_again().await).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_in_good_order_and_started_again() -> anyhow::Result<()> {
    let dir = TempDir::new()?;
    let postgres = Mutex::new(Postgres::start(dir.path()).await?);
    let url = postgres.lock().await.create_database("msg").await?;
    let flow = flow("msgdb_stopped", Own { msg_db: Some(url), ..Own::default() }).await?;
    impatient(&flow, SHORT)?;
    let stop = async || postgres.lock().await.stop().await;
    through(flow, AWAY, stop, async || postgres.lock().await.start_again().await).await
}

/// Sessions stand in the middle of whatever they were at; nobody is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_with_all_its_sessions() -> anyhow::Result<()> {
    let dir = TempDir::new()?;
    let postgres = Postgres::start(dir.path()).await?;
    let url = postgres.create_database("msg").await?;
    let flow = flow("msgdb_frozen", Own { msg_db: Some(url), ..Own::default() }).await?;
    impatient(&flow, SHORT)?;
    let own = flow.msg_database().await?;
    let frozen = Mutex::new(None);
    let freeze = async || {
        *frozen.lock().await = Some(Frozen::freeze(&postgres, &own).await?);
        Ok(())
    };
    let thaw = async || frozen.lock().await.as_mut().context("it was not frozen")?.thaw(&postgres);
    through(flow, AWAY, freeze, thaw).await
}
