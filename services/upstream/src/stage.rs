//! A whole upstream on in-memory ports and paused time, for tests.

pub(crate) mod slow;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use countersign_boot::Context;
use countersign_delivery::check::Check;
use countersign_delivery::ports::broker::{HeaderValue, Publication, Published, Publisher};
use countersign_delivery::ports::messages::{
    Entombed, Expiry, Heartbeat, IncarnationState, Insertion, Messages, Numbered, Opened,
};
use countersign_delivery::ports::outbox::Outbox;
use countersign_delivery::ports::{Clock, PortError};
use countersign_delivery::topology::{Mode, OnFull, Route};
use countersign_delivery::{
    IdempotencyKey, IncarnationId, MessageId, Position, Seq, StoredMessage, Timestamp, Topology, UpstreamName,
};
use countersign_testkit::broker::MemoryBroker;
use countersign_testkit::build::{EXCHANGE, a_subscription, a_topology, upstream};
use countersign_testkit::clock::ManualClock;
use countersign_testkit::ids::CountingIds;
use countersign_testkit::messages::MemoryMessages;
use countersign_wire::{checks, names};
use tokio_util::sync::CancellationToken;

use crate::accept::NewMessage;
use crate::config::UpstreamSection;
use crate::desk::Ports;
use crate::keeper::Vitals;
use crate::source::Sources;
use crate::upstream::Upstream;

/// What outlives processes: the database and the broker.
#[derive(Clone)]
pub(crate) struct Stage {
    pub messages: MemoryMessages,
    pub broker: MemoryBroker,
    pub topology: Topology,
    pub clock: ManualClock,
    /// The sources of processes that start from now on.
    pub sources: Sources,
    ids: CountingIds,
    process_clock: Arc<dyn Clock>,
    checks_to_refuse: Arc<AtomicUsize>,
}

/// One process.
pub(crate) struct Process {
    pub upstream: Upstream,
    pub context: Context,
}

impl Stage {
    /// Two subscriptions: `orders` gets `order.*`, `stock` gets `stock.*`.
    pub(crate) fn new() -> Self {
        let subscriptions = vec![a_subscription("orders", "order.*"), a_subscription("stock", "stock.*")];
        let topology = Topology { subscriptions, ..a_topology() };
        let clock = ManualClock::default();
        let broker = MemoryBroker::new(&topology, &clock);
        Self {
            messages: MemoryMessages::on(&clock, section().outbox_sweep_after_ms),
            broker,
            topology,
            process_clock: Arc::new(clock.clone()),
            ids: CountingIds::default(),
            clock,
            sources: Sources::default(),
            checks_to_refuse: Arc::default(),
        }
    }

    /// The same for processes with another clock than the database's.
    pub(crate) fn and_clock(self, process_clock: Arc<dyn Clock>) -> Self {
        Self { process_clock, ..self }
    }

    /// The same with another mode for what goes to `orders`.
    pub(crate) fn with_route(mut self, mode: Mode, check: bool) -> Self {
        let (exchange, routing_key) = (EXCHANGE.to_owned(), "order.#".to_owned());
        self.topology.routes = vec![Route { exchange, routing_key, mode, check, on_full: OnFull::Keep }];
        self.with_topology()
    }

    /// The same with a broker for its topology as it is now.
    pub(crate) fn with_topology(self) -> Self {
        Self { broker: MemoryBroker::new(&self.topology, &self.clock), ..self }
    }

    /// Starts a process, and waits until it has its incarnation.
    pub(crate) async fn start(&self) -> Process {
        let process = self.start_on(section(), Arc::new(self.messages.clone()));
        pass(1).await;
        process
    }

    pub(crate) fn start_on(&self, section: UpstreamSection, messages: Arc<dyn Messages>) -> Process {
        self.start_between(section, messages, Arc::new(self.messages.clone()))
    }

    /// The same with another table for the rows of mode `outbox`, too.
    pub(crate) fn start_between(
        &self,
        section: UpstreamSection,
        messages: Arc<dyn Messages>,
        outbox: Arc<dyn Outbox>,
    ) -> Process {
        let context = Context::detached("upstream", self.process_clock.clone(), Arc::new(self.ids.clone()));
        let vitals = Vitals {
            database: context.health.dependency("database"),
            broker: context.health.dependency("broker"),
            broker_state: Box::new(|| "down".into()),
        };
        let publisher = Arc::new(CheckRefuser(self.clone()));
        let stored = Arc::new(self.messages.clone());
        let ports = Ports { messages, outbox, stored, publisher, sources: self.sources.clone() };
        let upstream = Upstream::start(section, self.topology.clone(), ports, &context, vitals, CancellationToken::new());
        context.health.running();
        Process { upstream, context }
    }

    /// The broker refuses the next check batches, and nothing else.
    pub(crate) fn refuse_checks(&self, batches: usize) {
        self.checks_to_refuse.store(batches, Ordering::Relaxed);
    }

    /// All incarnations that are not closed.
    pub(crate) async fn heartbeats(&self) -> Vec<Heartbeat> {
        self.messages.heartbeats(&section().name).await.unwrap()
    }

    /// The single incarnation that is not closed.
    pub(crate) async fn heartbeat(&self) -> Heartbeat {
        let mut rows = self.heartbeats().await;
        assert_eq!(rows.len(), 1, "{rows:?}");
        rows.remove(0)
    }

    /// Every check that waits in the first tier, each with its place in the order of all publications.
    pub(crate) fn checks(&self) -> Vec<Check> {
        let queue = self.topology.check_tier_queue(self.topology.checks.check_delay_ms);
        let batches = self.broker.ready(&queue).into_iter().map(|batch| checks::decode(batch.body).unwrap());
        batches.flat_map(|batch| batch.checks).collect()
    }

    /// The ids of the messages in a work queue, sorted and without repeats.
    pub(crate) fn delivered(&self, queue: &str) -> Vec<String> {
        let mut ids: Vec<_> = self.broker.ready(queue).into_iter().filter_map(|message| message.properties.message_id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    pub(crate) fn stored(&self) -> impl Future<Output = Vec<StoredMessage>> + use<> {
        let messages = self.messages.clone();
        async move {
            let mut rows = Vec::new();
            for heartbeat in messages.heartbeats(&section().name).await.unwrap() {
                rows.extend(messages.scan(heartbeat.incarnation, Seq::FIRST, 1_000).await.unwrap());
            }
            rows
        }
    }
}

impl Process {
    /// As if killed: nothing is closed, nothing more is published.
    pub(crate) async fn kill(self) {
        self.context.stop.begin_hard();
        assert!(self.context.tasks.drained(Duration::from_mins(1)).await);
    }

    /// As by SIGTERM, with a long grace.
    pub(crate) async fn stop(self) {
        self.context.stop.begin_soft();
        assert!(self.context.tasks.drained(Duration::from_mins(1)).await);
    }
}

/// Short pauses, and no batch linger.
pub(crate) fn section() -> UpstreamSection {
    UpstreamSection { name: upstream("shop"), ..UpstreamSection::default() }
}

/// An order, which `orders` must sign for.
pub(crate) fn an_order(body: &str) -> NewMessage {
    NewMessage {
        routing_key: "order.created".into(),
        kind: "order.created".into(),
        body: Bytes::copy_from_slice(body.as_bytes()),
        ..NewMessage::default()
    }
}

/// A stock movement, which `stock` must sign for.
pub(crate) fn a_movement(body: &str) -> NewMessage {
    NewMessage { routing_key: "stock.moved".into(), kind: "stock.moved".into(), ..an_order(body) }
}

/// Lets so many milliseconds pass; the runtime's time is paused, so nobody waits for them.
pub(crate) async fn pass(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// Whether a publication says that it may have been published before.
pub(crate) fn is_again(publication: &Publication) -> bool {
    publication.properties.headers.get(names::REPUBLISHED) == Some(&HeaderValue::Bool(true))
}

/// Whether a publication goes to the tier of checks.
pub(crate) fn is_check(publication: &Publication) -> bool {
    publication.exchange.is_empty() && publication.routing_key.contains(".checks.")
}

/// The broker of a stage, which can refuse checks alone.
struct CheckRefuser(Stage);

#[async_trait]
impl Publisher for CheckRefuser {
    async fn publish(&self, batch: Vec<Publication>) -> Vec<Published> {
        let take_one = |left: usize| left.checked_sub(1);
        let refuse = batch.iter().all(is_check)
            && self.0.checks_to_refuse.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take_one).is_ok();
        if refuse {
            self.0.broker.nack_next(batch.len());
        }
        self.0.broker.publish(batch).await
    }

    fn is_up(&self) -> bool {
        self.0.broker.is_up()
    }

    async fn up(&self) {
        self.0.broker.up().await;
    }
}

/// A database that answers nothing but heartbeats after so many calls.
#[derive(Clone)]
pub(crate) struct Mortal {
    inner: MemoryMessages,
    left: Arc<AtomicUsize>,
}

impl Mortal {
    pub(crate) fn after(calls: usize, inner: &MemoryMessages) -> Self {
        Self { inner: inner.clone(), left: Arc::new(AtomicUsize::new(calls)) }
    }

    /// Makes it immortal.
    pub(crate) fn revive(&self) {
        self.left.store(usize::MAX, Ordering::Relaxed);
    }

    fn live(&self) -> Result<(), PortError> {
        let spent = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err();
        if spent { Err(PortError::Unavailable("mortal", "it is dead".into())) } else { Ok(()) }
    }
}

#[async_trait]
impl Messages for Mortal {
    async fn open(&self, upstream: &UpstreamName, incarnation: IncarnationId, now: Timestamp) -> Result<Opened, PortError> {
        self.inner.open(upstream, incarnation, now).await
    }
    async fn insert(&self, incarnation: IncarnationId, batch: &[Numbered]) -> Result<Insertion, PortError> {
        self.live()?;
        self.inner.insert(incarnation, batch).await
    }
    async fn entomb(&self, position: Position) -> Result<Entombed, PortError> {
        self.live()?;
        self.inner.entomb(position).await
    }
    /// Does not count: it would make the number of calls a matter of time.
    async fn beat(
        &self,
        incarnation: IncarnationId,
        counter: u64,
        watermark: Seq,
        settled_until: Timestamp,
    ) -> Result<bool, PortError> {
        self.inner.beat(incarnation, counter, watermark, settled_until).await
    }
    /// Likewise.
    async fn heartbeats(&self, upstream: &UpstreamName) -> Result<Vec<Heartbeat>, PortError> {
        self.inner.heartbeats(upstream).await
    }
    async fn adopt(&self, seen: &Heartbeat, adopter: IncarnationId) -> Result<bool, PortError> {
        self.live()?;
        self.inner.adopt(seen, adopter).await
    }
    async fn fence(&self, incarnation: IncarnationId) -> Result<(), PortError> {
        self.live()?;
        self.inner.fence(incarnation).await
    }
    async fn scan(&self, incarnation: IncarnationId, from: Seq, limit: u32) -> Result<Vec<StoredMessage>, PortError> {
        self.live()?;
        self.inner.scan(incarnation, from, limit).await
    }
    async fn at(&self, incarnation: IncarnationId, seqs: &[Seq]) -> Result<Vec<StoredMessage>, PortError> {
        self.live()?;
        self.inner.at(incarnation, seqs).await
    }
    async fn close(&self, incarnation: IncarnationId) -> Result<(), PortError> {
        self.live()?;
        self.inner.close(incarnation).await
    }
    async fn get(&self, ids: &[MessageId]) -> Result<Vec<StoredMessage>, PortError> {
        self.live()?;
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

/// Whether an incarnation is closed.
pub(crate) fn is_closed(stage: &Stage, incarnation: IncarnationId) -> bool {
    stage.messages.heartbeat(incarnation).is_some_and(|row| row.state == IncarnationState::Closed)
}
