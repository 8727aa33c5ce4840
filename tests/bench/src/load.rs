//! Who sends: business services as they would.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_launcher::EXCHANGE;
use countersign_wire::proto::send_result::Result as Sent;
use countersign_wire::proto::upstream_service_client::UpstreamServiceClient;
use countersign_wire::proto::{AnswerWhen, NewMessage, SendMessageRequest, SendMessagesRequest};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tonic::transport::{Channel, Endpoint};

use crate::tally;

/// Type of every message, and its routing key as a rule.
const KEY: &str = "order.created";
/// Messages in one call.
const BATCH: u32 = 500;
/// Calls at a time.
const CALLS: usize = 4;
/// Who sends one message a call.
const CALLERS: usize = 64;
/// Messages a second up to which each is sent alone at an even pace.
const SINGLY: u32 = 1_000;
/// Above that, sends in a second.
const BUNCHES: u32 = 200;
/// Calls without an answer at an even pace, at most.
const OPEN: usize = 1_000;
/// For one call.
const ANSWER: Duration = Duration::from_mins(1);

/// A message that says when it was sent.
pub(crate) fn message(body_bytes: usize) -> NewMessage {
    NewMessage {
        exchange: EXCHANGE.into(),
        routing_key: KEY.into(),
        r#type: KEY.into(),
        content_type: "application/octet-stream".into(),
        body: tally::body(body_bytes).into(),
        ..NewMessage::default()
    }
}

/// A connection to upstream.
pub(crate) async fn upstream(url: String) -> anyhow::Result<UpstreamServiceClient<Channel>> {
    Ok(UpstreamServiceClient::new(Endpoint::from_shared(url)?.timeout(ANSWER).connect().await?))
}

/// Sends so many messages, [`BATCH`] a call and [`CALLS`] calls at a time, over one connection.
pub(crate) async fn batches(url: String, messages: u32, body_bytes: usize) -> anyhow::Result<()> {
    batches_by(url, KEY, messages, body_bytes).await
}

/// The same by another routing key.
pub(crate) async fn batches_by(url: String, routing_key: &str, messages: u32, body_bytes: usize) -> anyhow::Result<()> {
    let message = || NewMessage { routing_key: routing_key.into(), ..message(body_bytes) };
    let upstream = upstream(url).await?;
    let next = AtomicU32::new(0);
    let calls = (0..CALLS).map(|_| async {
        let mut upstream = upstream.clone();
        loop {
            let first = next.fetch_add(BATCH, Ordering::Relaxed);
            if first >= messages {
                return anyhow::Ok(());
            }
            let batch = (first..messages.min(first + BATCH)).map(|_| message()).collect();
            send_batch(&mut upstream, batch).await?;
        }
    });
    futures::future::try_join_all(calls).await.map(drop)
}

async fn send_batch(upstream: &mut UpstreamServiceClient<Channel>, messages: Vec<NewMessage>) -> anyhow::Result<()> {
    let results = upstream.send_messages(SendMessagesRequest { messages }).await?.into_inner().results;
    let refused = results.iter().find(|result| !matches!(result.result, Some(Sent::Accepted(_))));
    ensure!(refused.is_none(), "a message was not accepted: {refused:?}");
    Ok(())
}

/// Who sends one message a call and waits for its answer, each over a connection of its own.
pub(crate) struct Callers(Vec<UpstreamServiceClient<Channel>>);

impl Callers {
    /// Connects all of them.
    pub(crate) async fn connect(url: &str) -> anyhow::Result<Self> {
        Ok(Self(futures::future::try_join_all((0..CALLERS).map(|_| upstream(url.to_owned()))).await?))
    }

    /// Sends so many messages, and returns when all are accepted. Each is answered when that says.
    pub(crate) async fn send(self, messages: u32, body_bytes: usize, answer_when: AnswerWhen) -> anyhow::Result<()> {
        let next = Arc::new(AtomicU32::new(0));
        let mut callers = JoinSet::new();
        for mut upstream in self.0 {
            let next = next.clone();
            callers.spawn(async move {
                while next.fetch_add(1, Ordering::Relaxed) < messages {
                    let message = NewMessage { answer_when: answer_when.into(), ..message(body_bytes) };
                    let request = SendMessageRequest { message: Some(message) };
                    upstream.send_message(request).await?.into_inner().accepted.context("an answer without what was accepted")?;
                }
                anyhow::Ok(())
            });
        }
        callers.join_all().await.into_iter().collect()
    }
}

/// Sends so many messages at an even pace over one connection, whatever the answers take unless [`OPEN`] are missing; how long the last send was
/// after the first.
pub(crate) async fn evenly(url: String, messages: u32, body_bytes: usize, per_second: u32) -> anyhow::Result<Duration> {
    let upstream = upstream(url).await?;
    let mut pace = Pace::of(per_second);
    let mut calls = JoinSet::new();
    let mut left = messages;
    let begun = Instant::now();
    while left > 0 {
        let due = pace.next().await.min(left);
        left -= due;
        let batch: Vec<_> = (0..due).map(|_| message(body_bytes)).collect();
        calls.spawn(at_once(upstream.clone(), batch));
        while let Some(done) = calls.try_join_next() {
            done??;
        }
        if calls.len() >= OPEN
            && let Some(done) = calls.join_next().await
        {
            done??;
        }
    }
    let took = begun.elapsed();
    calls.join_all().await.into_iter().collect::<anyhow::Result<()>>()?;
    Ok(took)
}

async fn at_once(mut upstream: UpstreamServiceClient<Channel>, mut batch: Vec<NewMessage>) -> anyhow::Result<()> {
    if batch.len() > 1 {
        return send_batch(&mut upstream, batch).await;
    }
    upstream.send_message(SendMessageRequest { message: batch.pop() }).await?;
    Ok(())
}

/// An even pace of messages: one by one up to [`SINGLY`] a second, above that in [`BUNCHES`] a second, as the clock of a process ticks in
/// milliseconds. What was missed is made up for.
pub(crate) struct Pace {
    ticks: Interval,
    bunch: u32,
}

impl Pace {
    /// So many messages a second, at least 1.
    pub(crate) fn of(per_second: u32) -> Self {
        let bunch = if per_second > SINGLY { per_second.div_ceil(BUNCHES) } else { 1 };
        let mut ticks = interval(Duration::from_secs(1) * bunch / per_second);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        Self { ticks, bunch }
    }

    /// Waits until the next are due; how many.
    pub(crate) async fn next(&mut self) -> u32 {
        self.ticks.tick().await;
        self.bunch
    }
}
