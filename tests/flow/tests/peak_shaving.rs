//! A flash sale: far more orders than the work queue has room for, and a slow handler.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, PATIENCE, Setup, order};
use countersign_launcher::{Extras, SUBSCRIPTION, Which, wait_until};
use countersign_wire::proto::get_message_request::By;
use countersign_wire::proto::send_result::Result as Sent;
use countersign_wire::proto::{Accepted, GetMessageRequest, SendMessageRequest, SendMessagesRequest};
use serde_json::json;
use tonic::Code;

/// What the work queue has room for.
const ROOM: u32 = 20;
/// Orders of the sale.
const ORDERS: u32 = 400;
/// How slow the handler is, milliseconds: with four at a time it takes some hundred orders a second.
const SLOW_MS: u32 = 40;
/// Longest wait for the answer to a refused send: it touches neither the broker nor an INSERT.
const AT_ONCE: Duration = Duration::from_secs(2);

async fn sale(test: &str, postgres: bool, on_full: &str) -> anyhow::Result<Flow> {
    let extras = Extras {
        topology: format!("[[route]]\nexchange = \"orders\"\non_full = {on_full:?}\n"),
        subscription: format!("max_length = {ROOM}"),
        downstream: "prefetch = 8\nconcurrency = 4".into(),
        upstream: "confirm_wait_ms = 200\nrepublish_max_ms = 500".into(),
        ..Extras::default()
    };
    let mut flow = Flow::with_extras(test, Setup { postgres, max_batch: 256 }, extras).await?;
    flow.system.behave(&json!({ "delay_ms": SLOW_MS })).await?;
    flow.start(&Which::ALL).await?;
    Ok(flow)
}

async fn nacked(flow: &Flow) -> anyhow::Result<f64> {
    flow.system.look().metric(Which::Upstream, "countersign_publish_total", "outcome=\"nacked\"").await
}

/// Everything is accepted, most of it published again and again, and processed once in the end.
async fn all_are_kept(postgres: bool) -> anyhow::Result<()> {
    let flow = sale("sale_keep", postgres, "keep").await?;
    let mut ids = Vec::new();
    for first in (0..ORDERS).step_by(100) {
        ids.extend(flow.send(first, 100).await?);
    }
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    ensure!(nacked(&flow).await? > 0.0, "the queue was never full");
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_delays_what_is_kept_on_sqlite() -> anyhow::Result<()> {
    all_are_kept(false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_delays_what_is_kept_on_postgres() -> anyhow::Result<()> {
    all_are_kept(true).await
}

/// Sends orders one by one, ten at a time in calls of ten; tells the accepted ones and the numbers of the refused ones.
async fn rush(flow: &Flow) -> anyhow::Result<(Vec<(u32, Accepted)>, Vec<u32>)> {
    let (mut accepted, mut refused) = (Vec::new(), Vec::new());
    let mut upstream = flow.upstream().await?;
    for first in (0..ORDERS).step_by(10) {
        let messages = (first..first + 10).map(order).collect();
        let answer = upstream.send_messages(SendMessagesRequest { messages }).await?.into_inner();
        for (number, result) in (first..).zip(answer.results) {
            match result.result.context("no result")? {
                Sent::Accepted(one) => accepted.push((number, one)),
                Sent::Refused(status) => {
                    ensure!(status.code == Code::ResourceExhausted as i32, "order {number}: {status:?}");
                    let names = status.message.contains(&format!("{SUBSCRIPTION} (max_length {ROOM})"));
                    ensure!(names && status.message.contains("not stored"), "{}", status.message);
                    refused.push(number);
                }
            }
        }
    }
    Ok((accepted, refused))
}

/// A refused order over gRPC and over HTTP, as the shop sees it: told at once, told why, and told when to come back.
async fn is_told_honestly(flow: &Flow, number: u32) -> anyhow::Result<()> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let url = format!("{}/v1/messages?exchange=orders", flow.system.http_url(Which::Upstream));
    let mut upstream = flow.upstream().await?;
    // Now and then one gets in, to find out; so it is asked until both have been refused.
    let (by_grpc, by_http) = (tokio::sync::Mutex::new(None), tokio::sync::Mutex::new(None));
    for more in 0..ORDERS {
        let started = tokio::time::Instant::now();
        let sent = upstream.send_message(SendMessageRequest { message: Some(order(number + more)) }).await;
        if let Err(status) = sent {
            ensure!(started.elapsed() < AT_ONCE, "it took {:?}", started.elapsed());
            by_grpc.lock().await.replace(status);
        }
        let request = client.post(&url).header("ce-specversion", "1.0").header("ce-type", "order.created");
        let request =
            request.header("ce-source", "/sale").header("ce-id", format!("{more}")).body(format!("{{\"order\":\"h{more}\"}}"));
        let answer = request.send().await?;
        if answer.status() == 429 {
            by_http.lock().await.replace(answer);
        }
        if by_grpc.lock().await.is_some() && by_http.lock().await.is_some() {
            break;
        }
    }
    let status = by_grpc.into_inner().context("gRPC never refused")?;
    ensure!(status.code() == Code::ResourceExhausted && !status.details().is_empty(), "{status:?}");
    ensure!(status.metadata().get("grpc-retry-pushback-ms").is_some(), "{status:?}");
    let answer = by_http.into_inner().context("HTTP never refused")?;
    let retry_after = answer.headers().get("retry-after").context("no Retry-After")?.to_str()?.parse::<u64>()?;
    let problem: serde_json::Value = answer.json().await?;
    ensure!(retry_after >= 1 && problem["type"] == "urn:countersign:full", "{problem}");
    ensure!(problem["detail"].as_str().is_some_and(|detail| detail.contains("max_length 20")), "{problem}");
    Ok(())
}

/// What is refused is not in the database; what is accepted is processed once; when the queue drains, sends are accepted again.
async fn the_surplus_is_refused(postgres: bool) -> anyhow::Result<()> {
    let flow = sale("sale_reject", postgres, "reject").await?;
    let (accepted, refused) = rush(&flow).await?;
    ensure!(!refused.is_empty() && !accepted.is_empty(), "{} accepted, {} refused", accepted.len(), refused.len());
    ensure!(nacked(&flow).await? > 0.0, "the queue was never full");
    let counted = flow.system.look().metric(Which::Upstream, "countersign_refused_total", "reason=\"full\"").await?;
    ensure!(counted >= f64::from(u32::try_from(refused.len())?), "counted {counted}");
    let mut upstream = flow.upstream().await?;
    for number in &refused {
        let by = Some(By::IdempotencyKey(format!("order-{number}")));
        let stored = upstream.get_message(GetMessageRequest { by, ..Default::default() }).await;
        ensure!(stored.is_err_and(|status| status.code() == Code::NotFound), "order {number} was refused, and is stored");
    }
    // What was accepted is known, full or not.
    let (number, first) = &accepted[0];
    let again = upstream.send_message(SendMessageRequest { message: Some(order(*number)) }).await?.into_inner();
    let again = again.accepted.context("no answer")?;
    ensure!(again.duplicate && again.id == first.id, "{again:?}");
    let ids: BTreeSet<String> = accepted.into_iter().map(|(_, accepted)| accepted.id).collect();
    flow.all_signed(&ids.iter().cloned().collect::<Vec<_>>()).await?;

    // Drained: the same orders again, each until it is accepted.
    let mut ids: Vec<String> = ids.into_iter().collect();
    for number in refused.iter().take(50) {
        let accepted = tokio::sync::Mutex::new(None);
        wait_until("a refused order to be accepted", PATIENCE, async || {
            let sent = flow.send(*number, 1).await.ok();
            let is_sent = sent.is_some();
            *accepted.lock().await = sent;
            is_sent
        })
        .await?;
        ids.extend(accepted.into_inner().context("no id")?);
    }
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_the_surplus_on_sqlite() -> anyhow::Result<()> {
    the_surplus_is_refused(false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_the_surplus_on_postgres() -> anyhow::Result<()> {
    the_surplus_is_refused(true).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_is_told_at_once_and_honestly() -> anyhow::Result<()> {
    let flow = sale("sale_honest", false, "reject").await?;
    // Nothing is processed, so the queue stays full.
    flow.system.behave(&json!({ "status": 503 })).await?;
    let _ = rush(&flow).await?;
    is_told_honestly(&flow, ORDERS).await?;
    flow.system.behave(&json!({})).await?;
    flow.finish().await
}
