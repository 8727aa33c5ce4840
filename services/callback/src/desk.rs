//! What every step works with: the ports, the figures, and the few things that are remembered between two steps.
//!
//! **Invariant:** nothing here has to survive a crash; what does is in MSG DB or in a check.

use std::sync::{Arc, Mutex};

use countersign_boot::Tasks;
use countersign_delivery::Topology;
use countersign_delivery::policy::Policy;
use countersign_delivery::ports::audit::Audit;
use countersign_delivery::ports::broker::{Publication, Published, Publisher};
use countersign_delivery::ports::dead_letters::DeadLetters;
use countersign_delivery::ports::deliveries::Deliveries;
use countersign_delivery::ports::{Clock, Ids};
use countersign_delivery::refusals::Refusals;

use crate::canary::Canaries;
use crate::lines::Lines;
use crate::probe::Demands;
use crate::reconcile::Seen;
use crate::take_in::Room;
use crate::upstreams::Upstreams;

/// The ports and figures of one callback. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Desk {
    /// MSG DB.
    pub deliveries: Arc<dyn Deliveries>,
    /// What operators did, in MSG DB too.
    pub audit: Arc<dyn Audit>,
    /// The dead letters in MSG DB.
    pub letters: Arc<dyn DeadLetters>,
    /// Where re-armed checks, probes, quarantined copies and redriven letters go.
    pub publisher: Arc<dyn Publisher>,
    /// Who is told to send again.
    pub upstreams: Arc<dyn Upstreams>,
    /// This machine's clock, for metrics and for the bound of what forbidden acts write; never for a verdict.
    pub clock: Arc<dyn Clock>,
    /// Ids of publications.
    pub ids: Arc<dyn Ids>,
    /// Whose queues there are.
    pub topology: Arc<Topology>,
    /// The figures by which is judged.
    pub policy: Arc<Policy>,
    /// The other figures.
    pub figures: Figures,
    /// Rate, calls at a time and breaker of each upstream.
    pub lines: Arc<Lines>,
    /// Where a call goes on that a step no longer waits for.
    pub tasks: Tasks,
    /// Which lanes wait for a probe.
    pub demands: Arc<Demands>,
    /// How many dead letters may still be taken in.
    pub room: Arc<Room>,
    /// Which upstreams there are.
    pub seen: Arc<Seen>,
    /// Until when each check tier is known to work.
    pub canaries: Arc<Canaries>,
    /// Which forbidden acts are rows of the audit.
    pub refusals: Arc<Mutex<Refusals>>,
}

/// Figures that are not the protocol's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Checks in one batch at most; 1 is the plain scheme.
    pub max_batch: usize,
    /// Orders in one resend call at most.
    pub max_orders: usize,
    /// How long downstream remembers what it has done, milliseconds: nothing older is sent again.
    pub dedup_retention_ms: u64,
    /// Dead letters that may wait for an operator; while as many do no more are taken in.
    pub max_dead_letters: u64,
}

impl Desk {
    /// Publishes; answers in order. The adapter counts.
    pub async fn publish(&self, publications: Vec<Publication>) -> Vec<Published> {
        if publications.is_empty() { Vec::new() } else { self.publisher.publish(publications).await }
    }
}

/// Why this is not a confirm, for a human; none when it is one.
#[must_use]
pub fn refusal(outcome: &Published) -> Option<String> {
    match outcome {
        Published::Confirmed => None,
        Published::Nacked => Some("the broker refused it (queue full, or an alarm)".into()),
        Published::Returned { reason } => Some(format!("no queue took it ({reason}): apply the topology")),
        Published::Unknown => Some("no confirm came in time".into()),
    }
}
