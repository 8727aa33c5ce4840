//! A replica of upstream whose clock is wrong: what was certified stays true, and nothing is lost or done twice.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use countersign_delivery::MessageId;
use countersign_flow::{Flow, PATIENCE, Setup, order};
use countersign_launcher::{Which, wait_until};
use countersign_wire::proto::{Certificate, CertificateState, ReconcileRequest};

use crate::reconcile::{Asked, certified};

const TEN_MINUTES_MS: i64 = 600_000;
/// What the machine's own clock may be read apart, and more.
const MOMENT_MS: i64 = 30_000;
const FEW: u32 = 5;

fn off_by(millis: i64) -> String {
    format!("clock.offset=return({millis})")
}

fn now_ms() -> anyhow::Result<i64> {
    Ok(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}

fn minted_ms(id: &str) -> anyhow::Result<i64> {
    Ok(MessageId::parse(id)?.minted_at().as_millis())
}

async fn send(flow: &Flow, which: Which, first: u32) -> anyhow::Result<Vec<String>> {
    let mut ids = Vec::new();
    for number in first..first + FEW {
        ids.push(flow.send_to_either(which, order(number)).await?.id);
    }
    Ok(ids)
}

fn stored(certificate: &Certificate) -> u64 {
    certificate.lines.iter().map(|line| line.stored).sum()
}

/// The certificate of exactly this one's minutes.
async fn again(flow: &Flow, certificate: &Certificate) -> anyhow::Result<Certificate> {
    let Certificate { compared_since_ms: since_ms, compared_until_ms: until_ms, .. } = *certificate;
    let request = ReconcileRequest { since_ms, until_ms, by: "a test".into(), ..Default::default() };
    let certificates = flow.reconciliation().await?.reconcile(request).await?.into_inner().certificates;
    certificates.into_iter().next().context("callback knows no upstream")
}

/// How far a process says that its clock is ahead of its database's, seconds.
async fn says_that_it_is_off(flow: &Flow, which: Which, direction: &str) -> anyhow::Result<f64> {
    let told = async || flow.system.log_of(which).is_ok_and(|log| log.contains(direction));
    wait_until("its clock to be told of", PATIENCE, told).await?;
    flow.system.metric(which, "countersign_clock_skew_seconds").await
}

async fn what_was_certified_gets_no_messages_from_a_clock_that_is_behind(mut flow: Flow, second: Which) -> anyhow::Result<()> {
    flow.start(&[Which::Upstream, Which::Callback, Which::Downstream]).await?;
    let mut ids = send(&flow, Which::Upstream, 0).await?;
    flow.all_signed(&ids).await?;
    let recent = now_ms()? - TEN_MINUTES_MS / 2;
    let holds = |found: &Certificate| found.state() == CertificateState::Certified && found.compared_until_ms > recent;
    let before = certified(&flow, Asked::OnCommand, "the last minutes to be certified", holds).await?;

    if second == Which::Upstream {
        flow.system.stop(second).await?;
    }
    flow.system.start(second, &off_by(-TEN_MINUTES_MS)).await?;
    let later = send(&flow, second, 100).await?;
    for id in &later {
        let minted_ms = minted_ms(id)?;
        ensure!(minted_ms >= before.compared_until_ms, "{id} was minted at {minted_ms}, which {before:?} has certified");
        ensure!(minted_ms <= now_ms()?, "{id} is of a time to come");
    }
    ids.extend(later);
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    let after = again(&flow, &before).await?;
    ensure!(after.state() == CertificateState::Certified && stored(&after) == stored(&before), "{before:?} and then {after:?}");
    let off = says_that_it_is_off(&flow, second, "behind the database's").await?;
    ensure!((-605.0..=-595.0).contains(&off), "{off}");
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_after_a_restart_on_sqlite() -> anyhow::Result<()> {
    let flow = Flow::new("clock_behind", Setup { postgres: false, max_batch: 256 }).await?;
    what_was_certified_gets_no_messages_from_a_clock_that_is_behind(flow, Which::Upstream).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_beside_another_on_postgres() -> anyhow::Result<()> {
    let flow = Flow::with_replica("clock_behind", 256).await?;
    what_was_certified_gets_no_messages_from_a_clock_that_is_behind(flow, Which::Replica).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_ahead_binds_nobody_and_certifies_nothing_to_come() -> anyhow::Result<()> {
    let mut flow = Flow::with_replica("clock_ahead", 256).await?;
    flow.system.start(Which::Replica, &off_by(TEN_MINUTES_MS)).await?;
    flow.start(&[Which::Callback, Which::Downstream]).await?;
    let mut ids = send(&flow, Which::Replica, 0).await?;
    for id in &ids {
        ensure!(minted_ms(id)? > now_ms()? + TEN_MINUTES_MS - MOMENT_MS, "{id} is not of a time to come");
    }
    let off = says_that_it_is_off(&flow, Which::Replica, "ahead of the database's").await?;
    ensure!((595.0..=605.0).contains(&off), "{off}");
    flow.start(&[Which::Upstream]).await?;
    let right = send(&flow, Which::Upstream, 100).await?;
    for id in &right {
        ensure!(minted_ms(id)? <= now_ms()? + MOMENT_MS, "{id} follows a clock that is ahead");
    }
    ids.extend(right);
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    let recent = now_ms()? - TEN_MINUTES_MS / 2;
    let holds = |found: &Certificate| found.state() == CertificateState::Certified && found.compared_until_ms > recent;
    let found = certified(&flow, Asked::OnCommand, "the last minutes to be certified", holds).await?;
    ensure!(found.compared_until_ms <= now_ms()?, "a minute to come was certified: {found:?}");
    flow.finish().await
}
