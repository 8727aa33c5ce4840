//! MSG DB is lost, all of it: what had been signed for looks unsigned, is found by reconciliation, comes again, is recognised and signed again.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, PATIENCE};
use countersign_launcher::{Which, wait_until};
use serde_json::Value;

use crate::command::{SETUP, expect};

const SENT: u32 = 200;
/// A minute has to end before it is compared.
const A_MINUTE_AND_MORE: Duration = Duration::from_secs(150);

/// Reconciles the last hour; the certificate of the only upstream.
async fn reconcile(flow: &Flow, code: i32, more: &[&str]) -> anyhow::Result<Value> {
    let told = expect(flow, code, &[&["reconcile", "--since", "1h", "--by", "a test"], more].concat()).await?;
    told["certificates"].get(0).cloned().context("callback knows no upstream")
}

/// By dry runs, until every minute is over and compared; nothing is checked by them.
async fn comparable(flow: &Flow, stored: u32) -> anyhow::Result<Value> {
    let mut last = String::new();
    let compared = wait_until("every minute to be compared", A_MINUTE_AND_MORE, async || {
        let (line, said) = match reconcile(flow, 1, &["--dry-run"]).await {
            Ok(certificate) => (certificate["lines"][0].clone(), certificate.to_string()),
            Err(error) => (Value::Null, format!("{error:#}")),
        };
        last = said;
        line["stored"] == stored && line["not_compared"] == 0
    });
    compared.await.with_context(|| last.clone())?;
    reconcile(flow, 1, &[]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_signed_for_is_signed_again_and_has_one_effect() -> anyhow::Result<()> {
    let mut flow = Flow::new("msgdb_lost", SETUP).await?;
    flow.configure(Which::Callback, "[callback]", "reconcile_interval_ms = 0")?;
    flow.start(&Which::ALL).await?;
    let mut ids = flow.send(0, SENT).await?;
    flow.all_signed(&ids).await?;
    // Their checks are over, too: nobody would ask for them again.
    let verified = async || {
        let verified = flow.system.look().metric(Which::Callback, "countersign_checks_total", "verdict=\"verified\"").await;
        verified.is_ok_and(|verified| verified >= f64::from(SENT))
    };
    wait_until("every check to have found its message signed", PATIENCE, verified).await?;

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

    let found = comparable(&flow, SENT + 1).await?;
    ensure!(found["state"] == "differs" && found["lines"][0]["missing"] == SENT, "{found}");
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    let healed = reconcile(&flow, 0, &[]).await?;
    ensure!(healed["state"] == "certified" && healed["lines"][0]["verified"] == SENT + 1, "{healed}");
    flow.no_invariant_was_violated()?;
    flow.finish().await
}
