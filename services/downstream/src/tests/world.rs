//! One subscription at work, between fakes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use countersign_boot::Context;
use countersign_delivery::ports::broker::{Publication, Publisher as _};
use countersign_delivery::ports::claims::{Claim, ClaimKey, Claims};
use countersign_delivery::receipt::{Outcome, Receipt, ReceiptBatch};
use countersign_delivery::topology::Guard;
use countersign_delivery::{FailReason, Message};
use countersign_testkit::broker::MemoryBroker;
use countersign_testkit::build::{a_topology, subscription, upstream};
use countersign_testkit::claims::MemoryClaims;
use countersign_testkit::clock::ManualClock;
use countersign_testkit::ids::CountingIds;
use countersign_wire::names;
use countersign_wire::publication::{Publish, to_subscription};
use tokio::sync::Notify;

use super::counting::Counting;
use crate::acknowledge::{Post, Signer};
use crate::arrived::Held;
use crate::breaker::Breaker;
use crate::config::OnUnknown;
use crate::consume::{Bounds, Lane};
use crate::copies::Copies;
use crate::desk::{Desk, Times};
use crate::gate::Gate;
use crate::guard::Handling;
use crate::guard::watched::Watched;
use crate::handler::{Event, Failure, Handled, Handler, HandlerContext};
use crate::meters::Meters;
use crate::pause::Paused;
use crate::receive::{Reception, Rules};

pub const QUEUE: &str = "inventory";
pub const RECEIPTS: &str = "countersign.receipts";
pub const DEAD: &str = "inventory.dead";
pub const QUARANTINE: &str = "countersign.quarantine";
pub const RETENTION_MS: u64 = 7 * 24 * 3_600_000;
pub const LEASE_MS: u64 = 30_000;

/// A handler that does as it is told and counts.
#[derive(Clone, Default)]
pub struct Scripted {
    pub calls: Arc<Mutex<Vec<HandlerContext>>>,
    pub at_once: Arc<AtomicUsize>,
    pub most_at_once: Arc<AtomicUsize>,
    pub behaviour: Arc<Mutex<Behaviour>>,
    pub go_on: Arc<Notify>,
}

#[derive(Clone, Default)]
pub enum Behaviour {
    #[default]
    Do,
    Fail(Failure),
    Panic,
    /// Waits for `go_on` first.
    Wait,
}

#[async_trait::async_trait]
impl Handler for Scripted {
    async fn handle(&self, _: &Event, context: &HandlerContext) -> Result<Handled, Failure> {
        let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        let _left = Left(self.at_once.clone());
        self.most_at_once.fetch_max(now, Ordering::SeqCst);
        self.calls.lock().unwrap().push(context.clone());
        let behaviour = self.behaviour.lock().unwrap().clone();
        match behaviour {
            Behaviour::Do => Ok(Handled::Done),
            Behaviour::Fail(failure) => Err(failure),
            Behaviour::Panic => panic!("told to"),
            Behaviour::Wait => {
                self.go_on.notified().await;
                Ok(Handled::Done)
            }
        }
    }
}

struct Left(Arc<AtomicUsize>);

impl Drop for Left {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

pub struct World {
    pub clock: ManualClock,
    pub claims: MemoryClaims,
    /// What the desk asks of them.
    pub counting: Counting,
    pub broker: MemoryBroker,
    pub context: Context,
    pub gate: Gate,
    pub paused: Paused,
    pub handler: Scripted,
    pub lane: Arc<Lane>,
}

/// What a test may want otherwise.
pub struct Given {
    pub rules: Rules,
    pub concurrency: u32,
    pub prefetch: u16,
    pub max_batch: usize,
    pub retries: Vec<u64>,
    pub breaker_failures: u32,
    /// How [`Scripted`] is called, or what is called instead of it.
    pub handling: Box<dyn FnOnce(Scripted) -> Handling>,
    /// What claims are made of; the ones in memory stand for Redis.
    pub record: Box<dyn FnOnce(Watched<Counting>) -> Arc<dyn Claims>>,
    /// Of the guard's database, if it has one.
    pub database: Option<Gate>,
    pub retry_jitter: f64,
    pub ids: CountingIds,
    pub rate_per_second: Option<u32>,
}

impl Default for Given {
    fn default() -> Self {
        Self {
            rules: Rules { guard: Guard::Redis, on_unknown: OnUnknown::Rerun, max_crashes: 2, memory_ms: RETENTION_MS },
            concurrency: 4,
            prefetch: 50,
            max_batch: 256,
            retries: vec![100, 1_000],
            breaker_failures: 0,
            handling: Box::new(|handler| Handling::Direct(Arc::new(handler))),
            record: Box::new(|claims| Arc::new(claims)),
            database: None,
            retry_jitter: 0.0,
            ids: CountingIds::default(),
            rate_per_second: None,
        }
    }
}

impl World {
    pub fn new() -> Self {
        Self::given(Given::default())
    }

    pub fn given(given: Given) -> Self {
        let clock = ManualClock::default();
        let mut topology = a_topology();
        topology.subscriptions[0].retry_delays_ms = given.retries;
        let (claims, broker) = (MemoryClaims::new(&clock), MemoryBroker::new(&topology, &clock));
        let context = Context::detached("downstream", Arc::new(clock.clone()), Arc::new(given.ids));
        let gate = Gate::new("redis", context.health.dependency("redis"));
        gate.open();
        let handler = Scripted::default();
        let post = Post {
            publisher: Arc::new(broker.clone()),
            ids: context.ids.clone(),
            queue: topology.receipts_queue(),
            name: "downstream".into(),
            stop: context.stop.clone(),
        };
        let counting = Counting::new(claims.clone());
        let record = (given.record)(Watched::new(counting.clone(), gate.clone()));
        let times = Times { lease_ms: LEASE_MS, retention_ms: RETENTION_MS };
        let reception = Reception {
            subscription: topology.subscriptions[0].clone(),
            quarantine: topology.quarantine_queue(),
            handling: (given.handling)(handler.clone()),
            timeout_ms: 60_000,
            rules: given.rules,
            retry_jitter: given.retry_jitter,
            name: "downstream".into(),
            desk: Desk::open(&context.tasks, &context.stop, record, times, given.max_batch),
            copies: Copies::new(Arc::new(broker.clone())),
            signer: Signer::start(&context.tasks, post, given.max_batch, Duration::from_millis(2), usize::MAX),
            held: Arc::new(Held::default()),
            meters: Meters::of(&topology.subscriptions[0].name),
            breaker: Arc::new(Breaker::new(given.breaker_failures, Duration::from_secs(1))),
            clock: context.clock.clone(),
            ids: context.ids.clone(),
        };
        let bounds = Bounds {
            prefetch: given.prefetch,
            concurrency: given.concurrency,
            max_batch: given.max_batch,
            rate_per_second: given.rate_per_second,
            lease: Duration::from_millis(LEASE_MS),
            progress_after: Duration::from_secs(10),
        };
        let (stop, tasks) = (context.stop.clone(), context.tasks.clone());
        let gates = Gate::all([Some(gate.clone()), given.database].into_iter().flatten());
        let paused = Paused::never(reception.subscription.name.clone());
        let lane =
            Lane { reception, consumers: Arc::new(broker.clone()), gate: gates, paused: paused.clone(), bounds, stop, tasks };
        Self { clock, claims, counting, broker, context, gate, paused, handler, lane: Arc::new(lane) }
    }

    /// Starts consuming.
    pub fn start(&self) {
        self.context.tasks.critical("consume", self.lane.clone().run());
    }

    pub fn told(&self, behaviour: Behaviour) -> &Self {
        *self.handler.behaviour.lock().unwrap() = behaviour;
        self
    }

    /// Puts a message into the work queue.
    pub async fn arrives(&self, message: &Message, publish: Publish) {
        let publication = to_subscription(message, &upstream("shop"), &subscription(QUEUE), publish);
        self.put(publication).await;
    }

    pub async fn put(&self, publication: Publication) {
        self.broker.publish(vec![publication]).await;
    }

    pub fn calls(&self) -> usize {
        self.handler.calls.lock().unwrap().len()
    }

    /// Every statement in the receipts queue, in order.
    pub fn signed(&self) -> ReceiptBatch {
        let mut all = ReceiptBatch::default();
        for publication in self.broker.ready(RECEIPTS) {
            let content_type = publication.properties.content_type.clone();
            let batch = countersign_wire::receipts::decode(content_type.as_deref(), publication.body).unwrap();
            all.receipts.extend(batch.receipts);
            all.probes.extend(batch.probes);
        }
        all
    }

    pub fn receipts(&self) -> Vec<Receipt> {
        self.signed().receipts
    }

    /// What the receipts say, in order, without reports.
    pub fn words(&self) -> Vec<String> {
        let words = self.receipts().into_iter().filter_map(|receipt| match receipt.outcome {
            Outcome::Done => Some("done".to_owned()),
            Outcome::Failed { reason, .. } => Some(reason.as_str().to_owned()),
            Outcome::Retrying { delay_ms, .. } => Some(format!("retrying {delay_ms}")),
            Outcome::Processing { .. } => None,
        });
        words.collect()
    }

    /// Until nothing waits in the work queue and nothing is held.
    pub async fn settled(&self) {
        self.until("the work queue is empty", |world| world.broker.depth(QUEUE) + world.broker.unsettled(QUEUE) == 0).await;
    }

    /// Lets (virtual) time pass until something holds.
    pub async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..100_000 {
            if holds(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("never: {what}; signed {:?}", self.words());
    }

    /// A process claims the message and dies.
    pub async fn somebody_dies_with(&self, message: &Message, token: &str) {
        self.claims.claim(&[claim(message, token)], 1).await.unwrap();
        self.clock.advance(2);
    }

    /// The reason written on the only message in the dead-letter queue.
    pub fn dead_reason(&self) -> Option<FailReason> {
        let dead = self.broker.ready(DEAD);
        assert!(dead.len() <= 1, "{} are dead", dead.len());
        let reason = dead.first()?.properties.headers.get(names::DEAD_REASON)?.as_text()?.to_owned();
        FailReason::parse(&reason)
    }
}

/// A claim on a message by somebody.
pub fn claim(message: &Message, token: &str) -> Claim {
    let key = ClaimKey {
        subscription: subscription(QUEUE),
        message_id: message.id,
        fingerprint: message.fingerprint.clone(),
        effect_epoch: 0,
    };
    Claim { key, token: token.into(), epoch: 0, again: true }
}
