//! MSG DB is lost, all of it: what had been signed for looks unsigned, is found by reconciliation, comes again, is recognised and signed again.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_flow::Flow;
use countersign_launcher::{Which, wait_until};
use serde_json::Value;

use crate::command::{SETUP, expect};

const SENT: u32 = 200;
/// A minute has to end before it is compared.
const A_MINUTE_AND_MORE: Duration = Duration::from_secs(150);

/// Reconciles the last hour until the whole of it can be compared, and `state` is what is found; its only line.
async fn reconciled(flow: &Flow, state: &str, stored: u32) -> anyhow::Result<Value> {
    let code = i32::from(state != "certified");
    let mut last = Value::Null;
    let what = format!("the last hour to be {state}");
    let found = wait_until(&what, A_MINUTE_AND_MORE, async || {
        match expect(flow, code, &["reconcile", "--since", "1h", "--by", "a test"]).await {
            Ok(told) => last = told["certificates"][0].clone(),
            Err(_) => return false,
        }
        last["state"] == state && last["lines"][0]["stored"] == stored && last["lines"][0]["not_compared"] == 0
    });
    found.await.with_context(|| last.to_string())?;
    Ok(last["lines"][0].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_signed_for_is_signed_again_and_has_one_effect() -> anyhow::Result<()> {
    let mut flow = Flow::new("msgdb_lost", SETUP).await?;
    flow.configure(Which::Callback, "[callback]", "reconcile_interval_ms = 0")?;
    flow.start(&Which::ALL).await?;
    let mut ids = flow.send(0, SENT).await?;
    flow.all_signed(&ids).await?;

    flow.system.stop(Which::Callback).await?;
    for file in ["msg.db", "msg.db-wal", "msg.db-shm"] {
        let path = flow.ground.path(file);
        if path.exists() {
            std::fs::remove_file(path)?;
        }
    }
    flow.start(&[Which::Callback]).await?;
    // Callback learns of an upstream by what that sends.
    ids.extend(flow.send(SENT, 1).await?);

    let line = reconciled(&flow, "differs", SENT + 1).await?;
    ensure!(line["missing"] == SENT, "{line}");
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    let line = reconciled(&flow, "certified", SENT + 1).await?;
    ensure!(line["verified"] == SENT + 1, "{line}");
    flow.no_invariant_was_violated()?;
    flow.finish().await
}
