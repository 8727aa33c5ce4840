//! A callback on fakes: what it is given, what it did.

use std::collections::{BTreeSet, VecDeque};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use countersign_boot::{Stop, Tasks};
use countersign_callback::canary::Canaries;
use countersign_callback::check::{self, check};
use countersign_callback::desk::{Desk, Figures};
use countersign_callback::lines::{BreakerFigures, LineFigures, Lines};
use countersign_callback::probe::Demands;
use countersign_callback::reconcile::Seen;
use countersign_callback::record::{self, record};
use countersign_callback::upstreams::{Answer, CallError, ResendOrder, Upstreams};
use countersign_delivery::check::{Check, CheckBatch};
use countersign_delivery::message::Attempt;
use countersign_delivery::policy::Policy;
use countersign_delivery::ports::broker::{Delivered, Handle, Publication};
use countersign_delivery::ports::deliveries::DeliveryKey;
use countersign_delivery::probe::Lane;
use countersign_delivery::receipt::{ProbeAnswer, Receipt, ReceiptBatch};
use countersign_delivery::state::Delivery;
use countersign_delivery::{Message, Topology, UpstreamName};
use countersign_testkit::audit::MemoryAudit;
use countersign_testkit::broker::MemoryBroker;
use countersign_testkit::build::{a_policy, a_topology, subscription, upstream};
use countersign_testkit::clock::ManualClock;
use countersign_testkit::dead_letters::MemoryDeadLetters;
use countersign_testkit::deliveries::MemoryDeliveries;
use countersign_testkit::ids::CountingIds;
use countersign_wire::{checks, publication, receipts};

/// What the fake upstream does with one call.
#[derive(Clone, Copy, Debug)]
pub enum Reply {
    /// This answer to every order.
    All(Answer),
    /// A failed call.
    Fail,
    /// No answer, ever.
    Never,
    /// This answer to every order, so much later.
    After(Duration, Answer),
    /// MSG DB goes away during the call; the answer is RESENT.
    ResentWhileDatabaseGoes,
}

/// One call as it was made.
#[derive(Clone, Debug)]
pub struct Call {
    pub upstream: UpstreamName,
    pub orders: Vec<ResendOrder>,
}

/// Upstreams in memory: the second implementation of the port.
#[derive(Clone)]
pub struct FakeUpstreams {
    state: Arc<Mutex<State>>,
    deliveries: MemoryDeliveries,
}

#[derive(Default)]
struct State {
    replies: VecDeque<Reply>,
    calls: Vec<Call>,
    hanging: BTreeSet<UpstreamName>,
}

impl FakeUpstreams {
    /// Replies to the next calls, in order; afterwards RESENT.
    pub fn will(&self, replies: &[Reply]) {
        self.lock().replies.extend(replies);
    }

    pub fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    /// This upstream takes calls and never answers, whatever the others do.
    pub fn hangs(&self, upstream: &UpstreamName) {
        self.lock().hanging.insert(upstream.clone());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

#[async_trait]
impl Upstreams for FakeUpstreams {
    async fn resend(&self, upstream: &UpstreamName, orders: &[ResendOrder]) -> Result<Vec<Answer>, CallError> {
        let reply = {
            let mut state = self.lock();
            state.calls.push(Call { upstream: upstream.clone(), orders: orders.to_vec() });
            if state.hanging.contains(upstream) {
                Reply::Never
            } else {
                state.replies.pop_front().unwrap_or(Reply::All(Answer::Resent))
            }
        };
        match reply {
            Reply::All(answer) => Ok(vec![answer; orders.len()]),
            Reply::Fail => Err(CallError::TooLate { upstream: upstream.clone(), deadline_ms: 1 }),
            Reply::Never => std::future::pending().await,
            Reply::After(time, answer) => {
                tokio::time::sleep(time).await;
                Ok(vec![answer; orders.len()])
            }
            Reply::ResentWhileDatabaseGoes => {
                self.deliveries.go_down();
                Ok(vec![Answer::Resent; orders.len()])
            }
        }
    }
}

/// The fakes, and one callback on them.
pub struct Rig {
    pub clock: ManualClock,
    pub deliveries: MemoryDeliveries,
    pub letters: MemoryDeadLetters,
    pub audit: MemoryAudit,
    pub broker: MemoryBroker,
    pub upstreams: FakeUpstreams,
    pub desk: Desk,
}

/// What a test may set.
pub struct Settings {
    pub topology: Topology,
    pub policy: Policy,
    pub max_batch: usize,
    pub max_orders: usize,
    pub dedup_retention_ms: u64,
    pub max_dead_letters: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            topology: a_topology(),
            policy: a_policy(),
            max_batch: 256,
            max_orders: 500,
            dedup_retention_ms: 7 * 86_400_000,
            max_dead_letters: 1_000,
        }
    }
}

pub const BREAKER_FAILURES: u32 = 3;
pub const PATIENCE: Duration = Duration::from_secs(1);

fn lines() -> Arc<Lines> {
    let many = NonZeroU32::new(100_000).unwrap();
    let breaker = BreakerFigures { failures: BREAKER_FAILURES, open: Duration::from_secs(10) };
    Arc::new(Lines::new(LineFigures { rate_per_s: many, burst: many, calls: 2, patience: PATIENCE, breaker }))
}

impl Rig {
    pub fn new() -> Self {
        Self::with(Settings::default())
    }

    pub fn with(settings: Settings) -> Self {
        let clock = ManualClock::default();
        let deliveries = MemoryDeliveries::new(&clock, settings.policy.overdue_ms);
        let letters = MemoryDeadLetters::new(&clock, &deliveries);
        let audit = MemoryAudit::new(&clock);
        let broker = MemoryBroker::new(&settings.topology, &clock);
        let upstreams = FakeUpstreams { state: Arc::default(), deliveries: deliveries.clone() };
        let desk = Desk {
            deliveries: Arc::new(deliveries.clone()),
            letters: Arc::new(letters.clone()),
            audit: Arc::new(audit.clone()),
            publisher: Arc::new(broker.clone()),
            upstreams: Arc::new(upstreams.clone()),
            clock: Arc::new(clock.clone()),
            ids: Arc::new(CountingIds::default()),
            topology: Arc::new(settings.topology),
            policy: Arc::new(settings.policy),
            figures: Figures {
                max_batch: settings.max_batch,
                max_orders: settings.max_orders,
                dedup_retention_ms: settings.dedup_retention_ms,
                max_dead_letters: settings.max_dead_letters,
            },
            lines: lines(),
            tasks: Tasks::new(Stop::default()),
            demands: Arc::default(),
            room: Arc::default(),
            seen: Arc::new(Seen::new(Arc::new(deliveries.clone()))),
            canaries: Arc::new(Canaries::default()),
            refusals: Arc::default(),
        };
        Self { clock, deliveries, letters, audit, broker, upstreams, desk }
    }

    /// The same servers, another process: what was only remembered is gone.
    pub fn restart(&mut self) {
        self.desk.lines = lines();
        self.desk.demands = Arc::new(Demands::default());
    }

    /// Looks at one check; gives back the checks that were armed again, each with its queue.
    pub async fn look(&self, one: &Check) -> Vec<(String, Check)> {
        let (outcome, armed) = self.look_at(&[batch_of(std::slice::from_ref(one))]).await;
        assert!(matches!(outcome, check::Outcome::Checked), "{outcome:?}");
        armed
    }

    /// Looks at several deliveries of the queue of due checks.
    pub async fn look_at(&self, delivered: &[Delivered]) -> (check::Outcome, Vec<(String, Check)>) {
        let before = self.broker.published().len();
        let outcome = check(&self.desk, delivered).await;
        (outcome, armed(&self.broker.published()[before..]))
    }

    /// Records receipts as one delivery.
    pub async fn sign(&self, receipts: Vec<Receipt>) {
        self.record(ReceiptBatch { receipts, probes: Vec::new() }).await;
    }

    /// Records the answer to one probe of `inventory`'s straight lane.
    pub async fn answer_probe(&self, number: u64) {
        self.record(ReceiptBatch { receipts: Vec::new(), probes: vec![ProbeAnswer { lane: lane(None), number }] }).await;
    }

    async fn record(&self, batch: ReceiptBatch) {
        let outcome = record(&self.desk, &[delivered(receipts::encode(&batch))]).await;
        assert!(matches!(outcome, record::Outcome::Recorded), "{outcome:?}");
    }

    /// Two looks and two signed probes, the second after the first one's grace: gives back the check whose next look finds it lost.
    pub async fn lose(&self, first: &Check) -> Check {
        let again = self.look(first).await.remove(0).1;
        self.prove_lost().await;
        again
    }

    /// Two signed probes since a first look, the second after the first one's grace.
    pub async fn prove_lost(&self) {
        let probes = self.desk.deliveries.probes(&[lane(None)]).await.unwrap().remove(0);
        let number = probes.last().expect("a probe was sent").number;
        self.answer_probe(number).await;
        self.clock.advance(self.desk.policy.probe_grace_ms);
        let sent = countersign_callback::probe::send_due(&self.desk).await.unwrap();
        assert_eq!(sent.probes, 1, "the second witness");
        self.answer_probe(number + 1).await;
    }

    /// `inventory`'s row of a message.
    pub fn row(&self, message: &Message) -> Option<Delivery> {
        self.deliveries.row(&key(message, "inventory"))
    }

    /// The words of a delivery's history.
    pub async fn history(&self, message: &Message) -> Vec<String> {
        let lines = self.desk.deliveries.history(&key(message, "inventory")).await.unwrap();
        lines.into_iter().map(|line| format!("{} {}", line.what, line.attempt.number)).collect()
    }

    /// How many probes lie in a queue.
    pub fn probes_in(&self, queue: &str) -> usize {
        self.broker.ready(queue).iter().filter(|one| countersign_wire::probes::read(&one.properties).is_some()).count()
    }
}

pub fn lane(retry_delay_ms: Option<u64>) -> Lane {
    Lane { subscription: subscription("inventory"), retry_delay_ms }
}

pub fn key(message: &Message, name: &str) -> DeliveryKey {
    DeliveryKey { message_id: message.id, subscription: subscription(name) }
}

pub fn attempt(number: u32) -> Attempt {
    Attempt { epoch: 0, number }
}

/// A delivery of one check batch of upstream `shop`.
pub fn batch_of(all: &[Check]) -> Delivered {
    delivered(checks::encode(&CheckBatch { upstream: upstream("shop"), checks: all.to_vec() }))
}

/// A delivery with this body.
pub fn delivered(body: bytes::Bytes) -> Delivered {
    let Publication { exchange, routing_key, properties, body } = publication::to_queue("q".into(), "1".into(), body);
    Delivered { handle: Handle { generation: 1, tag: 1 }, exchange, routing_key, redelivered: false, properties, body }
}

/// The checks among publications, each with its queue.
pub fn armed(published: &[Publication]) -> Vec<(String, Check)> {
    let batches = published.iter().filter(|one| one.routing_key.starts_with("countersign.checks"));
    let entries = batches.flat_map(|one| {
        let batch = checks::decode(one.body.clone()).unwrap();
        batch.checks.into_iter().map(|check| (one.routing_key.clone(), check))
    });
    entries.collect()
}
