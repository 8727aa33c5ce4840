//! One attachment of a consumer: a channel with its quality of service, and the stream of deliveries.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use futures::FutureExt;
use futures::future::BoxFuture;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Consumer};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use crate::config::Config;
use crate::link::{Link, Live};

/// AMQP 0-9-1: reply code that ends a channel without an error.
const REPLY_SUCCESS: u16 = 200;
/// How long the goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);
/// An attachment that lived this long was a good one: the pauses start over.
const GOOD_LIFE: Duration = Duration::from_secs(10);
/// Counted failures; beyond, the pause is at its longest anyway.
const MOST_FAILURES: u32 = 16;

/// What it takes to consume a queue, again and again.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) queue: ShortString,
    pub(crate) settle_timeout: Duration,
    pub(super) prefetch: u16,
    link: Link,
    connect_timeout: Duration,
    pauses: ExponentialBuilder,
    /// Counts attachments of all consumers, so that no two have the same generation.
    generations: Arc<AtomicU64>,
    failures: Arc<AtomicU32>,
    since: Option<Instant>,
}

/// A consumer that is attached.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) generation: u64,
    pub(crate) channel: Channel,
    pub(crate) deliveries: Consumer,
    _live: Arc<Live>,
}

impl Source {
    pub(crate) fn new(queue: ShortString, prefetch: u16, link: Link, config: &Config, generations: Arc<AtomicU64>) -> Self {
        let pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(config.reconnect_min_ms))
            .with_max_delay(Duration::from_millis(config.reconnect_max_ms))
            .with_jitter()
            .without_max_times();
        Self {
            queue,
            settle_timeout: config.confirm_timeout(),
            prefetch,
            link,
            connect_timeout: config.connect_timeout(),
            pauses,
            generations,
            failures: Arc::default(),
            since: None,
        }
    }

    /// An attachment was lost: the next one waits a little, longer if this one was short-lived too.
    pub(crate) fn failed(&mut self) {
        if self.since.is_some_and(|since| since.elapsed() >= GOOD_LIFE) {
            self.failures.store(0, Ordering::Relaxed);
        }
        self.count_failure();
    }

    fn count_failure(&self) {
        let failures = self.failures.load(Ordering::Relaxed);
        self.failures.store((failures + 1).min(MOST_FAILURES), Ordering::Relaxed);
    }

    /// Attaches, however long that takes.
    pub(crate) fn attach(&mut self) -> BoxFuture<'static, Attached> {
        self.since = Some(Instant::now());
        let mut source = self.clone();
        async move {
            loop {
                source.pause().await;
                let Some(live) = source.link.up().await else {
                    // Stopped for good: there will never be a message again.
                    return std::future::pending().await;
                };
                let generation = live.generation;
                match timeout(source.connect_timeout, source.attempt(live)).await {
                    Ok(Ok(attached)) => return attached,
                    Ok(Err(error)) => warn!(queue = %source.queue, %error, "cannot consume, trying again"),
                    Err(_) => source.link.complain(generation, "a consumer was not attached in time"),
                }
                source.count_failure();
            }
        }
        .boxed()
    }

    async fn pause(&self) {
        let failures = self.failures.load(Ordering::Relaxed);
        if let Some(pause) = self.pauses.build().nth(failures.saturating_sub(1) as usize).filter(|_| failures > 0) {
            sleep(pause).await;
        }
    }

    async fn attempt(&self, live: Arc<Live>) -> lapin::Result<Attached> {
        let channel = live.connection.create_channel().await?;
        channel.basic_qos(self.prefetch, BasicQosOptions { global: false }).await?;
        let deliveries = channel
            .basic_consume(self.queue.clone(), ShortString::default(), BasicConsumeOptions::default(), FieldTable::default())
            .await?;
        let generation = self.generations.fetch_add(1, Ordering::Relaxed) + 1;
        debug!(queue = %self.queue, generation, connection = live.generation, "consuming");
        Ok(Attached { generation, channel, deliveries, _live: live })
    }
}

impl Attached {
    /// Closes the channel, which puts everything unsettled back. Done by hand and before the drop: what lapin does on drop takes the
    /// whole connection down when the channel is closed already.
    pub(crate) async fn close(self) {
        if self.channel.status().connected() {
            let _ = timeout(GOODBYE, self.channel.close(REPLY_SUCCESS, "OK".into())).await;
        }
    }
}
