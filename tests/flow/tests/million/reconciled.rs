//! At the end, one reconciliation of all that was sent: upstream's table against the signatures, and what that costs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_delivery::MessageId;
use countersign_delivery::reconcile::{MINUTE_MS, Window, minute_of};
use countersign_flow::Flow;
use countersign_launcher::{Which, wait_until};
use countersign_wire::proto::reconciliation_service_client::ReconciliationServiceClient;
use countersign_wire::proto::{Certificate, CertificateState, ReconcileRequest};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

/// The last minute has to end, and its checks to come due, before it is compared.
const SETTLED: Duration = Duration::from_secs(150);

/// What is printed.
#[derive(Debug)]
pub(super) struct Cost {
    messages: u64,
    took: Duration,
    /// Of upstream and callback: time on processors, and memory before and after, MiB.
    used: [(&'static str, Duration, u64, u64); 2],
}

/// Reconciles all of it, once its last minute can be compared: it is certified, and every message is verified.
pub(super) async fn all<F>(flow: &Flow, sent: &BTreeMap<MessageId, F>, patience: Duration) -> anyhow::Result<Cost> {
    let (all, last) = minutes(sent)?;
    let endpoint = Endpoint::from_shared(flow.system.grpc_url(Which::Callback))?.timeout(patience);
    let mut callback = ReconciliationServiceClient::new(endpoint.connect().await?);
    let mut found = None;
    let settled = async || {
        found = reconcile(&mut callback, last, true).await.ok();
        found.as_ref().is_some_and(|found| found.compared_until_ms == last.until.as_millis())
    };
    wait_until("the last minute to be settled", SETTLED, settled).await.with_context(|| format!("{found:?}"))?;

    let services = [Which::Upstream, Which::Callback];
    let before = [flow.usage(services[0])?, flow.usage(services[1])?];
    let began = Instant::now();
    let found = reconcile(&mut callback, all, false).await?;
    let took = began.elapsed();
    let after = [flow.usage(services[0])?, flow.usage(services[1])?];

    let messages = u64::try_from(sent.len())?;
    let compared = (found.compared_since_ms, found.compared_until_ms);
    ensure!(
        found.state() == CertificateState::Certified && compared == (all.since.as_millis(), all.until.as_millis()),
        "{found:?}"
    );
    let counts: Vec<_> = found.lines.iter().map(|line| (line.stored, line.verified, line.missing)).collect();
    ensure!(
        counts == [(messages, messages, 0)],
        "{messages} were sent, and stored, verified and missing are {counts:?}: {found:?}"
    );
    let used = [0, 1].map(|at| {
        let (before, after) = (before[at], after[at]);
        (services[at].name(), after.cpu.saturating_sub(before.cpu), before.resident_mib, after.resident_mib)
    });
    Ok(Cost { messages, took, used })
}

async fn reconcile(
    callback: &mut ReconciliationServiceClient<Channel>,
    window: Window,
    validate_only: bool,
) -> anyhow::Result<Certificate> {
    let (since_ms, until_ms) = (window.since.as_millis(), window.until.as_millis());
    let request = ReconcileRequest { since_ms, until_ms, validate_only, by: "a test".into(), ..Default::default() };
    let certificates = callback.reconcile(request).await?.into_inner().certificates;
    certificates.into_iter().next().context("callback knows no upstream")
}

/// The minutes of these messages, and the last of them; ids are in the order of their times.
fn minutes<F>(sent: &BTreeMap<MessageId, F>) -> anyhow::Result<(Window, Window)> {
    let (first, last) = sent.keys().next().zip(sent.keys().next_back()).context("nothing was sent")?;
    let since = minute_of(last.minted_at());
    let last = Window { since, until: since.plus_millis(MINUTE_MS) };
    Ok((Window { since: minute_of(first.minted_at()), ..last }, last))
}

impl fmt::Display for Cost {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { messages, took, .. } = self;
        write!(out, "reconciled     {messages:>9}   in {:.2} s", took.as_secs_f64())?;
        for (name, cpu, before, after) in self.used {
            let cpu = cpu.as_secs_f64();
            write!(out, "\n  of {name:<8}  {cpu:>9.2}   seconds of CPU; resident before {before} MiB, after {after} MiB")?;
        }
        Ok(())
    }
}
