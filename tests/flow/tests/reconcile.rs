//! The third net: message and check are gone together, before anybody had signed anything. Only upstream's own table knows of them.
//!
//! Found on command and by the schedule; and what is not lost, but waits behind a pause or belongs to an upstream that is away ([`skipped`]).

mod skipped;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, Setup};
use countersign_launcher::{SUBSCRIPTION, Which, wait_until};
use countersign_wire::proto::{Certificate, CertificateState, ListCertificatesRequest, ReconcileRequest};

/// A minute has to end before it is compared.
const A_MINUTE_AND_MORE: Duration = Duration::from_secs(150);
const LOST: u32 = 20;

/// Who reconciles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The test; this callback does nothing by itself.
    OnCommand,
    /// The test, who only wants to know.
    DryRun,
    /// Nobody: the schedule does it, and the test reads what it found last.
    BySchedule,
}

/// Of the last hour; the certificate of the only upstream.
async fn certificate(flow: &Flow, asked: Asked) -> anyhow::Result<Certificate> {
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    let mut callback = flow.reconciliation().await?;
    let certificates = match asked {
        Asked::BySchedule => callback.list_certificates(ListCertificatesRequest {}).await?.into_inner().certificates,
        Asked::OnCommand | Asked::DryRun => {
            let (since_ms, validate_only) = (now - 3_600_000, asked == Asked::DryRun);
            let request = ReconcileRequest { since_ms, validate_only, by: "a test".into(), ..Default::default() };
            callback.reconcile(request).await?.into_inner().certificates
        }
    };
    certificates.into_iter().next().context("callback knows no upstream")
}

/// Waits for a certificate of which `holds`.
pub(crate) async fn certified(
    flow: &Flow,
    asked: Asked,
    what: &str,
    holds: impl Fn(&Certificate) -> bool,
) -> anyhow::Result<Certificate> {
    let mut last = None;
    let look = async || {
        last = certificate(flow, asked).await.ok();
        last.as_ref().is_some_and(&holds)
    };
    wait_until(what, A_MINUTE_AND_MORE, look).await.with_context(|| format!("{last:?}"))?;
    last.context("no certificate")
}

fn is_missing(found: &Certificate) -> bool {
    found.lines.iter().any(|line| line.missing > 0)
}

/// What a dry run finds is not checked, and not kept. The second one's probe has come through the queues behind whatever the first had
/// published.
async fn a_dry_run_changes_nothing(flow: &Flow) -> anyhow::Result<()> {
    certified(flow, Asked::DryRun, "a dry run to find the loss", is_missing).await?;
    let again = certificate(flow, Asked::DryRun).await?;
    ensure!(again.lines[0].missing == u64::from(LOST), "{again:?}");
    let judged = flow.system.metric(Which::Callback, "countersign_checks_total").await?;
    ensure!(judged == 0.0, "a dry run has {judged} checks judged");
    ensure!(flow.ground.queue_depth("countersign.checks").await? == 0, "a dry run has published checks");
    ensure!(flow.deliveries().await?.is_empty(), "callback has heard of a message");
    let kept = certificate(flow, Asked::BySchedule).await;
    ensure!(kept.is_err(), "a dry run was kept: {kept:?}");
    Ok(())
}

async fn what_nobody_has_heard_of_is_brought_through(mut flow: Flow, asked: Asked) -> anyhow::Result<()> {
    let interval_ms = if asked == Asked::BySchedule { 2_000 } else { 0 };
    flow.configure(Which::Callback, "[callback]", &format!("reconcile_interval_ms = {interval_ms}"))?;
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
    if asked == Asked::OnCommand {
        a_dry_run_changes_nothing(&flow).await?;
    }
    let found = certified(&flow, asked, "the loss to be found", is_missing).await?;
    let line = &found.lines[0];
    ensure!(found.state() == CertificateState::Differs && line.subscription == SUBSCRIPTION, "{found:?}");
    ensure!((line.stored, line.missing, line.verified) == (u64::from(LOST), u64::from(LOST), 0), "{found:?}");
    ensure!(line.missing_ids.iter().all(|id| ids.contains(id)), "{found:?}");
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    let is_certified = |found: &Certificate| found.state() == CertificateState::Certified && !found.lines.is_empty();
    let healed = certified(&flow, asked, "all to be certified", is_certified).await?;
    let line = &healed.lines[0];
    ensure!((line.stored, line.missing) == (u64::from(LOST), 0), "{healed:?}");
    let healed = certificate(&flow, Asked::OnCommand).await?;
    ensure!(healed.lines[0].verified == u64::from(LOST), "{healed:?}");
    for id in &ids {
        ensure!(flow.history(id, "resending").await? == 1, "{id} was lost once and is sent again once");
    }
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_command_and_sqlite() -> anyhow::Result<()> {
    let flow = Flow::new("reconcile", Setup { postgres: false, max_batch: 256 }).await?;
    what_nobody_has_heard_of_is_brought_through(flow, Asked::OnCommand).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_command_and_postgres() -> anyhow::Result<()> {
    let flow = Flow::new("reconcile", Setup { postgres: true, max_batch: 256 }).await?;
    what_nobody_has_heard_of_is_brought_through(flow, Asked::OnCommand).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_schedule() -> anyhow::Result<()> {
    let flow = Flow::new("reconcile", Setup { postgres: true, max_batch: 256 }).await?;
    what_nobody_has_heard_of_is_brought_through(flow, Asked::BySchedule).await
}
