//! What a delivery of a work queue is, and what is held at the moment.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_delivery::ports::broker::{Delivered, HeaderValue, Settler};
use countersign_delivery::ports::claims::Claim;
use countersign_delivery::probe::Lane;
use countersign_delivery::receipt::{Outcome, ProbeAnswer, Receipt};
use countersign_delivery::{Attempt, Fingerprint, MessageId, SubscriptionName, Timestamp, UpstreamName};
use countersign_wire::arrival::Arrival;
use countersign_wire::{WireError, arrival, names, probes};
use tokio::time::Instant;

/// A message that could be read, with what is needed to settle it.
pub struct Arrived {
    /// Its place in this process; unlike the broker's tag never given twice.
    pub number: u64,
    /// As the broker gave it.
    pub delivered: Delivered,
    /// As it was read.
    pub arrival: Arrival,
    /// Of the consumer that got it.
    pub settler: Arc<dyn Settler>,
    /// When it was handed over.
    pub since: Instant,
    standing: Mutex<Standing>,
}

/// How far it has come.
#[derive(Debug, Default)]
struct Standing {
    reported: Option<Instant>,
    claim: Option<Claim>,
    started: bool,
}

impl Arrived {
    /// It is being handled from now on.
    pub fn start(&self) {
        self.standing().started = true;
    }

    /// Its claim is to be renewed from now on; none: no longer.
    pub fn set_claim(&self, claim: Option<Claim>) {
        self.standing().claim = claim;
    }

    /// It was reported just now.
    pub fn reported(&self) {
        self.standing().reported = Some(Instant::now());
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A receipt for it.
    #[must_use]
    pub fn receipt(&self, subscription: &SubscriptionName, outcome: Outcome) -> Receipt {
        let arrival = &self.arrival;
        Receipt {
            message_id: arrival.id,
            subscription: subscription.clone(),
            upstream: arrival.upstream.clone(),
            fingerprint: arrival.fingerprint.clone(),
            attempt: arrival.attempt,
            sent_at: arrival.sent_at,
            outcome,
            trace: arrival.trace.clone(),
        }
    }
}

/// What a delivery turns out to be.
#[derive(Debug)]
pub enum Kind {
    /// A marker of callback's.
    Probe(ProbeAnswer),
    /// A message.
    Message(Box<Arrival>),
    /// Neither, but it says whose message it is: somebody can be told.
    Undecodable(Box<Receipt>, WireError),
    /// Neither, and it says not even that, or speaks a version unknown here.
    Unknown(WireError),
}

/// Reads a delivery of a subscription's queue.
#[must_use]
pub fn read(delivered: &Delivered, subscription: &SubscriptionName) -> Kind {
    if let Some((number, retry_delay_ms)) = probes::read(&delivered.properties) {
        return Kind::Probe(ProbeAnswer { lane: Lane { subscription: subscription.clone(), retry_delay_ms }, number });
    }
    match arrival::read(delivered) {
        Ok(arrival) => Kind::Message(Box::new(arrival)),
        Err(error @ WireError::UnknownVersion(_)) => Kind::Unknown(error),
        Err(error) => match about(delivered, subscription) {
            Some(receipt) => Kind::Undecodable(Box::new(receipt), error),
            None => Kind::Unknown(error),
        },
    }
}

/// A receipt about a message that cannot be read as a whole: id, upstream and fingerprint are enough to be told apart from others.
/// Its outcome is still to be set.
fn about(delivered: &Delivered, subscription: &SubscriptionName) -> Option<Receipt> {
    let properties = &delivered.properties;
    let header = |name: &str| properties.headers.get(name);
    let number = |name: &str, default: u32| {
        header(name).and_then(HeaderValue::as_int).and_then(|value| u32::try_from(value).ok()).unwrap_or(default)
    };
    let stamped_ms = properties.timestamp.and_then(|seconds| i64::try_from(seconds).ok()).map(|s| s.saturating_mul(1_000));
    let sent_at_ms = header(names::SENT_AT).and_then(HeaderValue::as_int).or(stamped_ms).unwrap_or(0);
    Some(Receipt {
        message_id: MessageId::parse(properties.message_id.as_deref()?).ok()?,
        subscription: subscription.clone(),
        upstream: UpstreamName::new(properties.app_id.as_deref()?).ok()?,
        fingerprint: Fingerprint::from_hex(header(names::FINGERPRINT)?.as_text()?).ok()?,
        attempt: Attempt { epoch: number(names::EPOCH, 0), number: number(names::ATTEMPT, 1) },
        sent_at: Timestamp::from_millis(sent_at_ms),
        outcome: Outcome::Processing { lease_ms: 0 },
        trace: None,
    })
}

/// Everything this process holds of one subscription: waiting, claimed, or on its way back.
#[derive(Default)]
pub struct Held {
    next: AtomicU64,
    all: Mutex<HashMap<u64, Arc<Arrived>>>,
}

/// How many messages a process holds of one subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Being handled, or on their way to be settled.
    pub in_flight: usize,
    /// Not yet started.
    pub waiting: usize,
}

impl Held {
    /// Takes a delivery in.
    pub fn enter(&self, delivered: Delivered, arrival: Arrival, settler: Arc<dyn Settler>) -> Arc<Arrived> {
        let (number, standing) = (self.next.fetch_add(1, Ordering::Relaxed), Mutex::default());
        let arrived = Arc::new(Arrived { number, delivered, arrival, settler, since: Instant::now(), standing });
        self.all().insert(number, arrived.clone());
        arrived
    }

    /// It is no longer held.
    pub fn leave(&self, arrived: &Arrived) {
        self.all().remove(&arrived.number);
    }

    /// How much is held.
    #[must_use]
    pub fn count(&self) -> Count {
        let all = self.all();
        let in_flight = all.values().filter(|arrived| arrived.standing().started).count();
        Count { in_flight, waiting: all.len() - in_flight }
    }

    /// The claims that are to be renewed.
    #[must_use]
    pub fn claims(&self) -> Vec<Claim> {
        self.all().values().filter_map(|arrived| arrived.standing().claim.clone()).collect()
    }

    /// What has been held for longer than `after` and not been reported within `every`.
    #[must_use]
    pub fn to_report(&self, after: Duration, every: Duration) -> Vec<Arc<Arrived>> {
        let now = Instant::now();
        let due = |arrived: &&Arc<Arrived>| {
            let is_quiet = || arrived.standing().reported.is_none_or(|at| now.duration_since(at) >= every);
            now.duration_since(arrived.since) >= after && is_quiet()
        };
        self.all().values().filter(due).cloned().collect()
    }

    fn all(&self) -> MutexGuard<'_, HashMap<u64, Arc<Arrived>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
