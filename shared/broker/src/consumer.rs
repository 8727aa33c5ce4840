//! Consuming: one channel for each consumer, taken up again after every loss.

mod channel;
mod settle;

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use countersign_delivery::ports::broker::{Consumer, Delivered, Settler};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use tokio_util::task::TaskTracker;
use tracing::warn;

pub(crate) use channel::Source;

use crate::convert;
use channel::Attached;
use settle::{Account, Settling};

/// A consumer of one queue. `next` may be dropped at any point, a half-made attachment included, and called again.
pub(crate) struct QueueConsumer {
    source: Source,
    account: Arc<Account>,
    attached: Option<Attached>,
    attaching: Option<BoxFuture<'static, Attached>>,
    /// Messages that were drained and not handed out yet; with what lapin holds never more than the prefetch.
    drained: VecDeque<Delivered>,
    tasks: TaskTracker,
}

impl QueueConsumer {
    pub(crate) fn new(source: Source, tasks: TaskTracker) -> Self {
        let account = Arc::new(Account::default());
        Self { source, account, attached: None, attaching: None, drained: VecDeque::new(), tasks }
    }

    /// Waits for one message and hands on what is there. Empty when the channel was lost instead.
    async fn drain(&mut self) {
        let Some(attached) = self.attached.as_mut() else { return };
        let mut item = attached.deliveries.next().await;
        loop {
            match item {
                Some(Ok(delivery)) => {
                    self.account.received(attached.generation, delivery.delivery_tag);
                    self.drained.push_back(convert::delivered(delivery, attached.generation));
                }
                Some(Err(error)) => return self.detach(&error.to_string()),
                None => return self.detach("cancelled by the broker"),
            }
            match attached.deliveries.next().now_or_never() {
                Some(next) => item = next,
                None => return,
            }
        }
    }

    /// Gives the channel up; what was drained from it is put back by the broker, so it is not handed out.
    fn detach(&mut self, reason: &str) {
        let Some(attached) = self.attached.take() else { return };
        warn!(queue = %self.source.queue, generation = attached.generation, reason, "the consumer is lost, consuming again");
        self.account.close(attached.generation);
        self.drained.retain(|delivered| delivered.handle.generation != attached.generation);
        self.source.failed();
        self.tasks.spawn(attached.close());
    }

    async fn attach(&mut self) {
        let attaching = self.attaching.get_or_insert_with(|| self.source.attach());
        let attached = attaching.await;
        self.attaching = None;
        self.account.open(attached.generation, attached.channel.clone());
        self.attached = Some(attached);
    }
}

#[async_trait]
impl Consumer for QueueConsumer {
    async fn next(&mut self, max: usize) -> Vec<Delivered> {
        while self.drained.is_empty() {
            if self.attached.is_none() {
                self.attach().await;
            }
            self.drain().await;
        }
        let count = max.max(1).min(self.drained.len());
        self.drained.drain(..count).collect()
    }

    fn settler(&self) -> Arc<dyn Settler> {
        Arc::new(Settling::new(Arc::clone(&self.account), self.source.prefetch, self.source.settle_timeout))
    }
}

impl Drop for QueueConsumer {
    fn drop(&mut self) {
        if let Some(attached) = self.attached.take() {
            self.account.close(attached.generation);
            self.tasks.spawn(attached.close());
        }
    }
}
