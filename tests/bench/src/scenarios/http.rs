//! Delivery to a handler behind HTTP that does nothing: downstream, beside a plain client of the same kind with as many calls at a time.
//!
//! The messages wait in the work queue before downstream is started: what is measured is delivery, not how upstream, its database and a
//! sender share the processors with it. Claims, receipts, and callback writing them down are in it. The clock is the handler's, from its first
//! call to its last; a message counts when its check has found it signed, and each must have come exactly once, by the handler's own count.
//! The client alone sends the same bodies under headers of the same number and size, to the same handler in a fresh process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use countersign_launcher::{Extras, SUBSCRIPTION, Which, wait_until};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use tokio::task::JoinSet;

use crate::beside::Beside;
use crate::rig::{Grounds, Rig, Shape};
use crate::servers::Servers;
use crate::tally::Tally;
use crate::{Book, Options, load, process, tally};

const NAME: &str = "http";
const SINK: &str = "bench-sink";
/// Messages of one round at most.
const MOST: u32 = 30_000;
/// Calls at a time.
const CONCURRENCY: u32 = 256;
/// For one call.
const TIMEOUT: Duration = Duration::from_secs(30);
/// For all messages to be in the work queue.
const FILLED: Duration = Duration::from_mins(2);
/// The least that is delivered in a second, so that no check comes due before its message had its turn.
const SLOWEST: u32 = 1_000;

pub(crate) async fn measure(options: &Options, book: &mut Book) -> anyhow::Result<()> {
    let servers = Servers::start().await?;
    for round in 1..=options.rounds {
        println!("round {round} of {}", options.rounds);
        one_round(&servers, options, book).await?;
    }
    Ok(())
}

async fn one_round(servers: &Servers, options: &Options, book: &mut Book) -> anyhow::Result<()> {
    let (messages, bytes) = (options.messages.min(MOST), options.body_bytes as usize);
    let handler = Beside::start(SINK, servers.dir.path()).await?;
    let extras = Extras {
        downstream: format!("concurrency = {CONCURRENCY}\nprefetch = 1000"),
        endpoint: Some(handler.url.clone()),
        ..Extras::default()
    };
    let check_delay_ms = options.check_delay_ms + u64::from(messages) * 1_000 / u64::from(SLOWEST);
    let shape = Shape { downstream: Which::Downstream.binary(), extras };
    let mut rig = Rig::start_on(servers, &shape, Grounds { check_delay_ms, ..Grounds::default() }).await?;

    let (raw, cpu) = alone(servers, messages, bytes).await?;
    book.note(NAME, "raw", "messages/s", raw, Some(1.0));
    book.note(NAME, "cpu raw", "µs/message", micros(cpu, messages), None);

    rig.system.stop(Which::Downstream).await?;
    load::batches(rig.system.grpc_url(Which::Upstream), messages, bytes).await?;
    wait_until(&format!("{messages} messages in the work queue"), FILLED, async || {
        servers.rabbitmq.queue_depth(&rig.vhost, SUBSCRIPTION).await.is_ok_and(|depth| depth == messages)
    })
    .await?;
    rig.system.start(Which::Downstream, "").await?;
    rig.verified(messages).await?;
    let cpu = process::cpu(rig.system.process(Which::Downstream)?.pid())?;
    let tally = told(&handler).await?;
    rig.stop().await?;
    tally.once_each(messages)?;
    let delivered = per_second(&tally);
    book.note(NAME, "delivered", "messages/s", delivered, Some(delivered / raw));
    // Of its whole life: its start is some tens of milliseconds.
    book.note(NAME, "cpu downstream", "µs/message", micros(cpu, messages), None);
    Ok(())
}

/// Sends so many messages to a handler of its own; messages a second, and the processor time of the client, which is this process.
async fn alone(servers: &Servers, messages: u32, bytes: usize) -> anyhow::Result<(f64, Duration)> {
    let handler = Beside::start(SINK, servers.dir.path()).await?;
    let client = client()?;
    let next = Arc::new(AtomicU32::new(0));
    let before = process::cpu(std::process::id())?;
    let mut calls = JoinSet::new();
    for _ in 0..CONCURRENCY {
        let (client, url, next) = (client.clone(), reqwest::Url::parse(&handler.url)?, next.clone());
        calls.spawn(async move {
            loop {
                let message = next.fetch_add(1, Ordering::Relaxed);
                if message >= messages {
                    return anyhow::Ok(());
                }
                let request = client.post(url.clone()).headers(headers(message)?).body(tally::body(bytes));
                request.send().await?.error_for_status()?.bytes().await?;
            }
        });
    }
    calls.join_all().await.into_iter().collect::<anyhow::Result<()>>()?;
    let cpu = process::cpu(std::process::id())?.saturating_sub(before);
    let tally = told(&handler).await?;
    tally.once_each(messages)?;
    Ok((per_second(&tally), cpu))
}

/// As downstream has it for its calls.
fn client() -> anyhow::Result<reqwest::Client> {
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(TIMEOUT)
        .pool_max_idle_per_host(CONCURRENCY as usize)
        .tcp_nodelay(true)
        .no_proxy();
    Ok(client.build()?)
}

/// What a delivery has: the same names, and values as long.
fn headers(message: u32) -> anyhow::Result<HeaderMap> {
    const SAME: [(&str, &str); 11] = [
        ("ce-specversion", "1.0"),
        ("ce-source", "shop"),
        ("ce-type", "order.created"),
        ("ce-time", "2023-11-14T22:13:20.123Z"),
        ("countersign-subscription", SUBSCRIPTION),
        ("countersign-attempt", "1"),
        ("countersign-epoch", "0"),
        ("countersign-fingerprint", "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"),
        ("countersign-exchange", "orders"),
        ("countersign-routing-key", "order.created"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ];
    let mut headers = HeaderMap::with_capacity(SAME.len() + 3);
    for (name, value) in SAME {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let id = HeaderValue::from_str(&format!("0199d5a0-0000-7000-8000-{message:012x}"))?;
    headers.insert("ce-id", id.clone());
    headers.insert("idempotency-key", id);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok(headers)
}

async fn told(handler: &Beside) -> anyhow::Result<Tally> {
    let answer = client()?.get(format!("{}/tally", handler.url)).send().await.context("the handler does not answer")?;
    Ok(answer.error_for_status()?.json().await?)
}

#[allow(clippy::cast_precision_loss, reason = "messages and microseconds; far below 2^52")]
fn per_second(tally: &Tally) -> f64 {
    (tally.calls.saturating_sub(1)) as f64 * 1e6 / tally.last_us.saturating_sub(tally.first_us).max(1) as f64
}

fn micros(cpu: Duration, messages: u32) -> f64 {
    cpu.as_secs_f64() * 1e6 / f64::from(messages)
}
