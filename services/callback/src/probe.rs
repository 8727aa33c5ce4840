//! What has been delivered by now: markers through the work queues themselves.
//!
//! A check that waits for evidence leaves a demand on its lane. [`send_due`] plans the lane's next probe, stores its number, and only
//! then publishes it. It runs when a check is looked at, and on a timer, so that the second witness does not have to wait
//! for the next check. Demands are lost with the process; the next look at the check makes them again.
//!
//! **Invariant:** no probe is published whose number is not stored; two callbacks never publish the same number.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use countersign_delivery::Topology;
use countersign_delivery::decide::lane_of;
use countersign_delivery::id::SubscriptionName;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::broker::Published;
use countersign_delivery::probe::{Lane, Probe, next_probe, view};
use countersign_delivery::state::Delivery;
use countersign_telemetry::{failed, names};
use countersign_wire::probes;
use tracing::{Instrument as _, Span};

use crate::desk::{Desk, refusal};

/// The lane whose probes say something about this delivery; none for a consumer that signs no probes, or is no longer in the topology.
///
/// A retry tier that the topology no longer has counts as the straight lane: nothing can be sent through it.
#[must_use]
pub fn lane(topology: &Topology, subscription: &SubscriptionName, delivery: Option<&Delivery>) -> Option<Lane> {
    let known = topology.subscription(subscription).filter(|known| known.probes)?;
    let mut lane = lane_of(subscription, delivery);
    lane.retry_delay_ms = lane.retry_delay_ms.filter(|delay| known.retry_delays_ms.contains(delay));
    Some(lane)
}

/// Which lanes wait for evidence, and how new it must be. Bounded by the topology: one entry a lane.
#[derive(Debug, Default)]
pub struct Demands(Mutex<BTreeMap<Lane, u64>>);

impl Demands {
    /// Some check waits for evidence newer than probe `after` of this lane.
    pub fn note(&self, lane: Lane, after: u64) {
        let mut demands = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let demand = demands.entry(lane).or_insert(after);
        *demand = after.max(*demand);
    }

    /// Every lane with a demand.
    #[must_use]
    pub fn open(&self) -> Vec<(Lane, u64)> {
        let demands = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        demands.iter().map(|(lane, after)| (lane.clone(), *after)).collect()
    }

    /// Forgets the demand, unless it has grown since.
    fn met(&self, lane: &Lane, after: u64) {
        let mut demands = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if demands.get(lane).is_some_and(|demand| *demand <= after) {
            demands.remove(lane);
        }
    }
}

/// What [`send_due`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Lanes with a demand that was looked at.
    pub lanes: usize,
    /// Probes published and confirmed.
    pub probes: usize,
}

/// Sends the probes that the noted demands want now.
///
/// # Errors
/// [`PortError`] of MSG DB: nothing more was sent, and the demands stay.
pub async fn send_due(desk: &Desk) -> Result<Sent, PortError> {
    let open = desk.demands.open();
    let mut sent = Sent { lanes: open.len(), probes: 0 };
    if open.is_empty() {
        return Ok(sent);
    }
    let now = desk.deliveries.now().await?;
    let lanes: Vec<Lane> = open.iter().map(|(lane, _)| lane.clone()).collect();
    let known = desk.deliveries.probes(&lanes).await?;
    for ((lane, demand), known) in open.iter().zip(&known) {
        if view(known).proven > *demand {
            desk.demands.met(lane, *demand);
        } else if let Some(next) = next_probe(known, *demand, now, &desk.policy) {
            let Some(publication) = probes::publication(lane, next.number, &desk.topology) else { continue };
            if desk.deliveries.store_probe(lane, next).await? {
                let span = span_of(lane, next.number);
                let outcomes = desk.publish(vec![publication]).instrument(span.clone()).await;
                sent.probes += usize::from(span.in_scope(|| tell(lane, next.number, known, outcomes.first())));
            }
        }
    }
    Ok(sent)
}

/// A trace of its own: many checks may wait for one probe.
fn span_of(lane: &Lane, number: u64) -> Span {
    let subscription = lane.subscription.as_str();
    tracing::info_span!(
        parent: None,
        names::SPAN_PROBE,
        { names::OTEL_NAME } = %names::span_name(names::SPAN_PROBE, subscription),
        { names::OTEL_KIND } = names::PRODUCER,
        { names::MESSAGING_SYSTEM } = names::RABBITMQ,
        { names::MESSAGING_OPERATION_TYPE } = names::SEND,
        { names::MESSAGING_OPERATION_NAME } = names::SPAN_PROBE,
        { names::MESSAGING_SUBSCRIPTION } = subscription,
        { names::PROBE } = names::int(number),
        { names::OUTCOME } = tracing::field::Empty,
        { names::ERROR_TYPE } = tracing::field::Empty,
        { names::OTEL_STATUS_DESCRIPTION } = tracing::field::Empty,
    )
}

/// Counts and logs; whether the broker has the probe. If not it stays unanswered, and is replaced like one that got lost.
fn tell(lane: &Lane, number: u64, known: &[Probe], outcome: Option<&Published>) -> bool {
    let silent = known.iter().rev().take_while(|probe| probe.answered_at.is_none()).count();
    let why = outcome.map_or_else(|| Some("no answer".to_owned()), refusal);
    let word = match (&why, silent) {
        (Some(_), _) => "not_published",
        (None, 0) => "sent",
        (None, _) => "replaced",
    };
    metrics::counter!(names::PROBES_TOTAL, "outcome" => word).increment(1);
    let span = Span::current();
    span.record(names::OUTCOME, word);
    if why.is_some() {
        failed(&span, word);
    }
    let (subscription, retry_delay_ms) = (&lane.subscription, lane.retry_delay_ms);
    if let Some(why) = &why {
        tracing::warn!(%subscription, retry_delay_ms, number, why, "a probe could not be published");
    } else if silent > 0 {
        tracing::warn!(%subscription, retry_delay_ms, number, silent, "probes are not answered: its consumer is slow or away");
    } else {
        tracing::debug!(%subscription, retry_delay_ms, number, "probe sent");
    }
    why.is_none()
}
