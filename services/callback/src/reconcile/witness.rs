//! A backlog is not a loss: before a subscription's messages are looked up, it has to answer a probe that was stored after the sums were taken.
//!
//! The answer comes through its work queue and through the queue of receipts, behind everything that was in them. Whoever does not answer in
//! time is skipped, for this round: its messages may be waiting, and nothing is sent again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use countersign_delivery::ports::PortError;
use countersign_delivery::probe::{Lane, view};
use countersign_delivery::reconcile::MINUTE_MS;
use countersign_delivery::{SubscriptionName, Timestamp};
use tokio::time::Instant;

use super::{Reconciler, Round};
use crate::probe;

/// Between two looks for an answer.
const LOOK: Duration = Duration::from_millis(200);

/// What a subscription's silence about a message means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Witness {
    /// What was in its queue has been delivered.
    Answered,
    /// Nothing: it may be waiting there.
    Silent,
    /// It signs no probes; what was minted before has had its time.
    Unprobed {
        /// By the clocks that mint.
        until: Timestamp,
    },
}

impl Witness {
    /// Whether the messages of this minute can be looked up.
    pub fn covers(self, minute: Timestamp) -> bool {
        match self {
            Self::Answered => true,
            Self::Silent => false,
            Self::Unprobed { until } => minute.plus_millis(MINUTE_MS) <= until,
        }
    }

    /// Why a minute is skipped, for a human.
    pub fn words(self, subscription: &SubscriptionName) -> String {
        match self {
            Self::Unprobed { .. } => format!("{subscription} signs no probes, and the time for its receipts is not over"),
            _ => format!("{subscription} has not answered a probe in time: what it has not signed may be waiting in its queue"),
        }
    }
}

/// Asks every one of them for a sign of life, all at once, and waits for the answers.
pub(super) async fn of(
    reconciler: &Reconciler,
    subscriptions: impl Iterator<Item = &SubscriptionName>,
    round: &mut Round,
) -> Result<BTreeMap<SubscriptionName, Witness>, PortError> {
    let now = reconciler.now().await?;
    let until = now.minus_millis(reconciler.desk.policy.unprobed_timeout_ms);
    let mut witnesses = BTreeMap::new();
    let mut asked = BTreeSet::new();
    for subscription in subscriptions {
        let witness = match probe::lane(&reconciler.desk.topology, subscription, None) {
            None => Witness::Unprobed { until },
            Some(lane) => {
                if !round.silent.contains(subscription) {
                    asked.insert(lane);
                }
                Witness::Silent
            }
        };
        witnesses.insert(subscription.clone(), witness);
    }
    for lane in answered(reconciler, &asked).await? {
        witnesses.insert(lane.subscription, Witness::Answered);
    }
    let silent = witnesses.iter().filter(|(_, witness)| **witness == Witness::Silent);
    round.silent.extend(silent.map(|(subscription, _)| subscription.clone()));
    Ok(witnesses)
}

/// The lanes that have answered a probe whose number was not stored yet when this began; returns early when all have.
async fn answered(reconciler: &Reconciler, asked: &BTreeSet<Lane>) -> Result<Vec<Lane>, PortError> {
    let lanes: Vec<Lane> = asked.iter().cloned().collect();
    if lanes.is_empty() {
        return Ok(lanes);
    }
    let desk = &reconciler.desk;
    let before: Vec<u64> = desk.deliveries.probes(&lanes).await?.iter().map(|probes| view(probes).latest).collect();
    for (lane, latest) in lanes.iter().zip(&before) {
        desk.demands.note(lane.clone(), *latest);
    }
    let patience = Instant::now() + reconciler.figures.probe_wait;
    loop {
        probe::send_due(desk).await?;
        let probes = desk.deliveries.probes(&lanes).await?;
        let has_answered = |at: &usize| probes[*at].iter().any(|probe| probe.number > before[*at] && probe.answered_at.is_some());
        let answered: Vec<usize> = (0..lanes.len()).filter(has_answered).collect();
        if answered.len() == lanes.len() || Instant::now() >= patience {
            return Ok(answered.into_iter().map(|at| lanes[at].clone()).collect());
        }
        tokio::time::sleep(LOOK.min(patience.saturating_duration_since(Instant::now()))).await;
    }
}
