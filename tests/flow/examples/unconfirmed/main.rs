//! What upstream costs while the broker is away, and how it catches up afterwards.
//!
//! `unconfirmed --messages 1000000` starts a private broker and database and one upstream, sends singly for a while, stops the broker, stores
//! so many messages in batches over gRPC, starts the broker again, and goes on to send singly until everything is published. It prints
//! one line a run: upstream's resident memory, the speeds, and how long a single send takes until it is confirmed, at rest and meanwhile.
//! It fails when a message is refused, or when the work queue holds fewer messages than were accepted. Reads `/proc`: Linux only.

#![allow(clippy::disallowed_methods, reason = "a measurement has no launch frame; the ban is for the product")]

mod installation;
mod probe;
mod table;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::{Parser, ValueEnum};
use countersign_launcher::wait_until;
use countersign_wire::proto::send_result::Result as Sent;
use countersign_wire::proto::{NewMessage, SendMessagesRequest};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::installation::{Installation, QUEUE, Upstream};
use crate::probe::Probe;
use crate::table::Run;

/// Messages of one batch call.
const BATCH: u32 = 500;
/// For how long is sent singly at rest.
const AT_REST: Duration = Duration::from_secs(5);
/// How long catching up may take: a second for so many messages, and some to begin.
const SLOWEST_PER_SECOND: u32 = 500;
const BEGINNING: Duration = Duration::from_mins(2);

/// Where messages are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Database {
    Postgres,
    Sqlite,
}

/// Measure upstream with many messages stored while the broker is away.
#[derive(Clone, Debug, Parser)]
struct Options {
    /// Messages stored while the broker is away
    #[arg(long, default_value_t = 100_000)]
    messages: u32,
    /// Bytes of one body
    #[arg(long, default_value_t = 256)]
    body_bytes: usize,
    /// Where they are stored
    #[arg(long, value_enum, default_value = "postgres")]
    database: Database,
    /// The program to measure; without it, the `upstream` built in the same profile as this program
    #[arg(long)]
    upstream: Option<std::path::PathBuf>,
    /// Batch calls at a time
    #[arg(long, default_value_t = 64)]
    callers: u32,
    /// Single sends a second
    #[arg(long, default_value_t = 200)]
    sends_per_second: u32,
    /// How often everything is done, with servers of its own each time; the last line is the median
    #[arg(long, default_value_t = 1)]
    runs: u32,
}

#[tokio::main]
async fn main() -> ExitCode {
    match measure(&Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("unconfirmed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(options: &Options) -> anyhow::Result<()> {
    let mut runs = Vec::new();
    table::head();
    for _ in 0..options.runs.max(1) {
        let run = run(options).await?;
        run.print(&format!("{:?}", options.database));
        runs.push(run);
    }
    if runs.len() > 1 {
        Run::median(&runs).print("median");
    }
    Ok(())
}

async fn run(options: &Options) -> anyhow::Result<Run> {
    let mut installation = Installation::start(options).await?;
    let upstream = installation.upstream.clone();
    let idle_kib = installation.memory("VmRSS")?;

    let probe = Probe::start(&upstream, options);
    tokio::time::sleep(AT_REST).await;
    let at_rest = probe.end().await?;

    installation.rabbitmq.stop().await?;
    let began = Instant::now();
    store(&upstream, options).await?;
    let storing = began.elapsed();
    let waiting = upstream.unconfirmed().await?;
    ensure!(waiting >= f64::from(options.messages), "only {waiting} messages wait for the broker");
    let waiting_kib = installation.memory("VmRSS")?;

    installation.rabbitmq.start_again().await?;
    let patience = BEGINNING + Duration::from_secs((options.messages / SLOWEST_PER_SECOND).into());
    // It has begun when the first of them are published; how long a client pauses between two tries to connect is not the matter.
    let began = |left: f64| left < waiting - f64::from(BATCH);
    wait_until("upstream to reach the broker", BEGINNING, async || upstream.unconfirmed().await.is_ok_and(began)).await?;
    let probe = Probe::start(&upstream, options);
    let (since, left) = (Instant::now(), upstream.unconfirmed().await?);
    let few = f64::from(options.sends_per_second);
    wait_until("everything to be published", patience, async || upstream.unconfirmed().await.is_ok_and(|left| left < few))
        .await?;
    let catching_up = since.elapsed();
    let meanwhile = probe.end().await?;
    wait_until("the last ones", patience, async || upstream.unconfirmed().await.is_ok_and(|left| left == 0.0)).await?;

    let accepted = options.messages + at_rest.count() + meanwhile.count();
    let queued = installation.rabbitmq.queue_depth("/", QUEUE).await?;
    ensure!(queued >= accepted, "the work queue holds {queued} messages, {accepted} were accepted");
    let peak_kib = installation.memory("VmHWM")?;
    installation.stop().await?;
    Ok(Run {
        messages: options.messages.into(),
        idle_mb: idle_kib / 1000.0 * 1.024,
        waiting_mb: waiting_kib / 1000.0 * 1.024,
        peak_mb: peak_kib / 1000.0 * 1.024,
        stored_per_second: f64::from(options.messages) / storing.as_secs_f64(),
        published_per_second: left / catching_up.as_secs_f64(),
        published_twice: f64::from(queued - accepted),
        at_rest: at_rest.percentiles(),
        meanwhile: meanwhile.percentiles(),
    })
}

/// Stores the messages, several calls at a time; each is answered when the confirm did not come in time.
async fn store(upstream: &Upstream, options: &Options) -> anyhow::Result<()> {
    let next = Arc::new(AtomicU32::new(0));
    let mut callers = JoinSet::new();
    for _ in 0..options.callers.max(1) {
        let (upstream, next, options) = (upstream.clone(), next.clone(), options.clone());
        callers.spawn(async move {
            let mut client = upstream.client().await?;
            loop {
                let first = next.fetch_add(BATCH, Ordering::Relaxed);
                if first >= options.messages {
                    return anyhow::Ok(());
                }
                let count = BATCH.min(options.messages - first);
                let messages = (0..count).map(|_| message(options.body_bytes)).collect();
                let answer = client.send_messages(SendMessagesRequest { messages }).await?;
                for result in answer.into_inner().results {
                    ensure!(matches!(result.result, Some(Sent::Accepted(_))), "refused: {result:?}");
                }
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended.context("a caller")??;
    }
    Ok(())
}

fn message(body_bytes: usize) -> NewMessage {
    NewMessage {
        routing_key: "order.created".into(),
        r#type: "order.created".into(),
        content_type: "application/octet-stream".into(),
        body: vec![b'x'; body_bytes].into(),
        ..NewMessage::default()
    }
}
