//! Who sends: business services as they would.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_launcher::EXCHANGE;
use countersign_wire::proto::send_result::Result as Sent;
use countersign_wire::proto::upstream_service_client::UpstreamServiceClient;
use countersign_wire::proto::{NewMessage, SendMessageRequest, SendMessagesRequest};
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tonic::transport::{Channel, Endpoint};

use crate::tally;

/// Messages in one call.
const BATCH: u32 = 500;
/// Calls at a time.
const CALLS: usize = 4;
/// Who sends one message a call.
const CALLERS: usize = 64;
/// For one call.
const ANSWER: Duration = Duration::from_mins(1);

/// A message that says when it was sent.
pub(crate) fn message(body_bytes: usize) -> NewMessage {
    NewMessage {
        exchange: EXCHANGE.into(),
        routing_key: "order.created".into(),
        r#type: "order.created".into(),
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
    let upstream = upstream(url).await?;
    let next = AtomicU32::new(0);
    let calls = (0..CALLS).map(|_| async {
        let mut upstream = upstream.clone();
        loop {
            let first = next.fetch_add(BATCH, Ordering::Relaxed);
            if first >= messages {
                return anyhow::Ok(());
            }
            let batch = (first..messages.min(first + BATCH)).map(|_| message(body_bytes)).collect();
            let results = upstream.send_messages(SendMessagesRequest { messages: batch }).await?.into_inner().results;
            let refused = results.iter().find(|result| !matches!(result.result, Some(Sent::Accepted(_))));
            ensure!(refused.is_none(), "a message was not accepted: {refused:?}");
        }
    });
    futures::future::try_join_all(calls).await.map(drop)
}

/// Who sends one message a call and waits for its answer, each over a connection of its own.
pub(crate) struct Callers(Vec<UpstreamServiceClient<Channel>>);

impl Callers {
    /// Connects all of them.
    pub(crate) async fn connect(url: &str) -> anyhow::Result<Self> {
        Ok(Self(futures::future::try_join_all((0..CALLERS).map(|_| upstream(url.to_owned()))).await?))
    }

    /// Sends so many messages, and returns when all are accepted.
    pub(crate) async fn send(self, messages: u32, body_bytes: usize) -> anyhow::Result<()> {
        let next = Arc::new(AtomicU32::new(0));
        let mut callers = JoinSet::new();
        for mut upstream in self.0 {
            let next = next.clone();
            callers.spawn(async move {
                while next.fetch_add(1, Ordering::Relaxed) < messages {
                    let request = SendMessageRequest { message: Some(message(body_bytes)) };
                    upstream.send_message(request).await?.into_inner().accepted.context("an answer without what was accepted")?;
                }
                anyhow::Ok(())
            });
        }
        callers.join_all().await.into_iter().collect()
    }
}

/// An even pace; what was missed is made up for.
pub(crate) fn ticks(per_second: u32) -> Interval {
    let mut ticks = interval(Duration::from_secs(1) / per_second);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    ticks
}
