//! The broker is away for long: the bound of what may wait for it, and new sends while the backlog is published.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_flow::{PATIENCE, order};
use countersign_launcher::{Which, wait_until};
use countersign_wire::proto::{SendMessageRequest, SendState};
use tokio::time::Instant;
use tonic::Code;

use super::rig::{CONFIRM_WAIT_MS, MARGIN, Private, all_are, finish, private};

/// Messages that may wait for the broker in the first test.
const FEW: u32 = 20;
/// Longest wait for a refusal that needs neither database nor broker: the best of a few, since the machine is busy.
const AT_ONCE: Duration = Duration::from_millis(100);
/// Stored while the broker is away, in the second test.
const BACKLOG: u32 = 20_000;
/// Messages in one call.
const CALL: u32 = 500;
/// Sends during catch-up: 99 of 100 are answered within `confirm_wait_ms` and [`MARGIN`], whatever is being caught up.
const NEW: u32 = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_may_wait_is_refused_at_once_until_the_broker_is_back() -> anyhow::Result<()> {
    let Private { dir: _dir, mut broker, mut flow } = private("unconfirmed", &format!("max_unconfirmed = {FEW}")).await?;
    flow.start(&Which::ALL).await?;
    let mut ids = all_are(&flow, SendState::Confirmed, 0, 2).await?;
    broker.settle().await?;
    broker.kill9();
    for number in 2..2 + FEW {
        ids.extend(all_are(&flow, SendState::Committed, number, 1).await?);
    }
    let mut upstream = flow.upstream().await?;
    let mut best = Duration::MAX;
    for number in 100..110 {
        let started = Instant::now();
        let refused = upstream.send_message(SendMessageRequest { message: Some(order(number)) }).await;
        best = best.min(started.elapsed());
        let status = refused.err().context("accepted beyond the bound")?;
        ensure!(status.code() == Code::ResourceExhausted && !status.details().is_empty(), "{status:?}");
        ensure!(status.message().contains("max_unconfirmed"), "{status:?}");
    }
    eprintln!("refused within {best:?}");
    ensure!(best < AT_ONCE, "the refusal took {best:?}");
    let url = format!("{}/v1/messages?exchange=orders", flow.system.http_url(Which::Upstream));
    let event = reqwest::Client::builder().no_proxy().build()?.post(url).header("ce-specversion", "1.0");
    let event = event.header("ce-type", "order.created").header("ce-source", "/shop").header("ce-id", "1").body("{}");
    let answer = event.send().await?;
    ensure!(answer.status() == 429 && answer.headers().contains_key("retry-after"), "{answer:?}");

    broker.start_again().await?;
    let accepted = tokio::sync::Mutex::new(None);
    wait_until("a send to be accepted again", PATIENCE, async || {
        let sent = flow.send(100, 1).await.ok();
        let is_sent = sent.is_some();
        *accepted.lock().await = sent;
        is_sent
    })
    .await?;
    ids.extend(accepted.into_inner().context("no id")?);
    finish(flow, &ids).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_does_not_hold_up_new_sends() -> anyhow::Result<()> {
    let Private { dir: _dir, mut broker, mut flow } = private("backlog", "").await?;
    flow.start(&[Which::Upstream]).await?;
    broker.settle().await?;
    broker.kill9();
    let mut stored = 0;
    while stored < BACKLOG {
        stored += u32::try_from(flow.send(stored, CALL).await?.len())?;
    }
    let unconfirmed = async || flow.system.metric(Which::Upstream, "countersign_unconfirmed_messages").await;
    broker.start_again().await?;
    wait_until("catching up to begin", PATIENCE, async || {
        unconfirmed().await.is_ok_and(|waiting| waiting > 0.0 && waiting < f64::from(BACKLOG))
    })
    .await?;
    let before = unconfirmed().await?;
    let (mut upstream, mut took, mut confirmed) = (flow.upstream().await?, Vec::new(), 0);
    for number in BACKLOG..BACKLOG + NEW {
        let started = Instant::now();
        let answer = upstream.send_message(SendMessageRequest { message: Some(order(number)) }).await?.into_inner();
        took.push(started.elapsed());
        confirmed += u32::from(answer.accepted.context("no answer")?.state() == SendState::Confirmed);
    }
    let after = unconfirmed().await?;
    took.sort_unstable();
    let (half, most) = (took[took.len() / 2], took[took.len() * 99 / 100]);
    eprintln!("backlog {before} to {after}: p50 {half:?}, p99 {most:?}, {confirmed} of {NEW} confirmed at once");
    ensure!(before > 0.0, "there was nothing left to catch up");
    ensure!(most <= Duration::from_millis(CONFIRM_WAIT_MS) + MARGIN, "p99 of new sends is {most:?}");
    ensure!(confirmed * 2 > NEW, "{confirmed} of {NEW} were confirmed while the backlog was published");
    wait_until("the backlog to be published", PATIENCE, async || unconfirmed().await.is_ok_and(|waiting| waiting == 0.0)).await?;
    let all = BACKLOG + NEW;
    wait_until("all to be in the work queue", PATIENCE, async || {
        broker.queue_depth("/", countersign_launcher::SUBSCRIPTION).await.is_ok_and(|depth| depth >= all)
    })
    .await?;
    flow.finish().await
}
