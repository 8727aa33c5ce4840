//! The third net: message and check are gone together, before anybody had signed anything. Only upstream's own table knows of them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, Setup};
use countersign_launcher::{SUBSCRIPTION, Which, wait_until};
use countersign_wire::proto::{Certificate, CertificateState, ReconcileRequest};

/// A minute has to end before it is compared.
const A_MINUTE_AND_MORE: Duration = Duration::from_secs(150);
const LOST: u32 = 20;

/// Reconciles the last hour; the certificate of the only upstream.
async fn certificate(flow: &Flow) -> anyhow::Result<Certificate> {
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    let request = ReconcileRequest { since_ms: now - 3_600_000, by: "a test".into(), ..Default::default() };
    let certificates = flow.reconciliation().await?.reconcile(request).await?.into_inner().certificates;
    certificates.into_iter().next().context("callback knows no upstream")
}

/// Waits for a certificate of which `holds`.
pub(crate) async fn certified(flow: &Flow, what: &str, holds: impl Fn(&Certificate) -> bool) -> anyhow::Result<Certificate> {
    let mut last = None;
    let look = async || {
        last = certificate(flow).await.ok();
        last.as_ref().is_some_and(&holds)
    };
    wait_until(what, A_MINUTE_AND_MORE, look).await.with_context(|| format!("{last:?}"))?;
    last.context("no certificate")
}

async fn what_nobody_has_heard_of_is_brought_through(mut flow: Flow) -> anyhow::Result<()> {
    flow.start(&[Which::Upstream]).await?;
    let ids = flow.send(0, LOST).await?;
    flow.queue_reaches(SUBSCRIPTION, LOST).await?;
    let due = async || flow.ground.queue_depth("countersign.checks").await.is_ok_and(|depth| depth > 0);
    wait_until("the checks to come due", A_MINUTE_AND_MORE, due).await?;
    flow.queue_reaches("countersign.checks.1000", 0).await?;
    for queue in [SUBSCRIPTION, "countersign.checks"] {
        flow.ground.purge(queue).await?;
    }
    flow.start(&[Which::Downstream, Which::Callback]).await?;
    let found = certified(&flow, "the loss to be found", |found| found.lines.iter().any(|line| line.missing > 0)).await?;
    let line = &found.lines[0];
    ensure!(found.state() == CertificateState::Differs && line.subscription == SUBSCRIPTION, "{found:?}");
    ensure!((line.stored, line.missing, line.verified) == (u64::from(LOST), u64::from(LOST), 0), "{found:?}");
    ensure!(line.missing_ids.iter().all(|id| ids.contains(id)), "{found:?}");
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    let healed = certified(&flow, "all to be certified", |found| found.state() == CertificateState::Certified).await?;
    let line = &healed.lines[0];
    ensure!((line.stored, line.verified, line.missing) == (u64::from(LOST), u64::from(LOST), 0), "{healed:?}");
    for id in &ids {
        ensure!(flow.history(id, "resending").await? == 1, "{id} was lost once and is sent again once");
    }
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqlite() -> anyhow::Result<()> {
    let setup = Setup { postgres: false, max_batch: 256 };
    what_nobody_has_heard_of_is_brought_through(Flow::new("reconcile", setup).await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres() -> anyhow::Result<()> {
    let setup = Setup { postgres: true, max_batch: 256 };
    what_nobody_has_heard_of_is_brought_through(Flow::new("reconcile", setup).await?).await
}
