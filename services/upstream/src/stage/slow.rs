//! A database that lets its caller wait.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::messages::{Entombed, Expiry, Heartbeat, Insertion, Messages, Numbered, Opened};
use countersign_delivery::{IdempotencyKey, IncarnationId, MessageId, Position, Seq, StoredMessage, Timestamp, UpstreamName};
use countersign_testkit::messages::MemoryMessages;
use tokio::sync::watch;
use tokio::time::sleep;

/// How long it lets wait, until somebody says otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Waits {
    /// Before a beat is written.
    pub beat: Duration,
    /// Between reading the heartbeats and answering.
    pub heartbeats: Duration,
    /// Nothing is fenced for now.
    pub hold_fences: bool,
}

/// See the module. Clones are one.
#[derive(Clone, Debug)]
pub(crate) struct Slow {
    inner: MemoryMessages,
    waits: Arc<watch::Sender<Waits>>,
}

impl Slow {
    pub(crate) fn new(inner: &MemoryMessages, waits: Waits) -> Self {
        Self { inner: inner.clone(), waits: Arc::new(watch::Sender::new(waits)) }
    }

    /// From now on; what waits for its time already waits on.
    pub(crate) fn set(&self, waits: Waits) {
        self.waits.send_replace(waits);
    }

    fn now(&self) -> Waits {
        *self.waits.borrow()
    }
}

#[async_trait]
impl Messages for Slow {
    async fn open(&self, upstream: &UpstreamName, incarnation: IncarnationId, now: Timestamp) -> Result<Opened, PortError> {
        self.inner.open(upstream, incarnation, now).await
    }
    async fn insert(&self, incarnation: IncarnationId, batch: &[Numbered]) -> Result<Insertion, PortError> {
        self.inner.insert(incarnation, batch).await
    }
    async fn entomb(&self, position: Position) -> Result<Entombed, PortError> {
        self.inner.entomb(position).await
    }
    async fn beat(
        &self,
        incarnation: IncarnationId,
        counter: u64,
        watermark: Seq,
        settled_until: Timestamp,
    ) -> Result<bool, PortError> {
        sleep(self.now().beat).await;
        self.inner.beat(incarnation, counter, watermark, settled_until).await
    }
    async fn heartbeats(&self, upstream: &UpstreamName) -> Result<Vec<Heartbeat>, PortError> {
        let rows = self.inner.heartbeats(upstream).await;
        sleep(self.now().heartbeats).await;
        rows
    }
    async fn adopt(&self, seen: &Heartbeat, adopter: IncarnationId) -> Result<bool, PortError> {
        self.inner.adopt(seen, adopter).await
    }
    async fn fence(&self, incarnation: IncarnationId) -> Result<(), PortError> {
        let held = self.waits.subscribe().wait_for(|waits| !waits.hold_fences).await.is_err();
        assert!(!held, "the sender is in self");
        self.inner.fence(incarnation).await
    }
    async fn scan(&self, incarnation: IncarnationId, from: Seq, limit: u32) -> Result<Vec<StoredMessage>, PortError> {
        self.inner.scan(incarnation, from, limit).await
    }
    async fn at(&self, incarnation: IncarnationId, seqs: &[Seq]) -> Result<Vec<StoredMessage>, PortError> {
        self.inner.at(incarnation, seqs).await
    }
    async fn close(&self, incarnation: IncarnationId) -> Result<(), PortError> {
        self.inner.close(incarnation).await
    }
    async fn get(&self, ids: &[MessageId]) -> Result<Vec<StoredMessage>, PortError> {
        self.inner.get(ids).await
    }
    async fn by_key(&self, key: &IdempotencyKey) -> Result<Option<StoredMessage>, PortError> {
        self.inner.by_key(key).await
    }
    async fn delete_expired(&self, upstream: &UpstreamName, expiry: Expiry, limit: u32) -> Result<u64, PortError> {
        self.inner.delete_expired(upstream, expiry, limit).await
    }
    async fn is_settled(&self, position: Position) -> Result<bool, PortError> {
        self.inner.is_settled(position).await
    }
}
