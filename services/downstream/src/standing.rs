//! How the subscriptions of this process stand, for operators.

use std::sync::Arc;

use countersign_delivery::SubscriptionName;
use countersign_delivery::topology::Guard;

use crate::arrived::Held;
use crate::breaker::Breaker;
use crate::consume::Lane;
use crate::pause::Paused;

/// One subscription at work, as far as it is shown. It keeps none of what the work needs.
pub struct Standing {
    /// Its name.
    pub name: SubscriptionName,
    /// What makes its effects happen once.
    pub guard: Guard,
    /// Handlers at a time.
    pub concurrency: u32,
    /// Most starts in a second.
    pub rate_per_second: Option<u32>,
    /// Whether an operator has paused it.
    pub paused: Paused,
    /// Before its handler.
    pub breaker: Arc<Breaker>,
    /// What this process has in hand of it.
    pub held: Arc<Held>,
}

impl Standing {
    /// That of a lane.
    #[must_use]
    pub fn of(lane: &Lane) -> Self {
        let reception = &lane.reception;
        Self {
            name: reception.subscription.name.clone(),
            guard: reception.subscription.guard,
            concurrency: lane.bounds.concurrency,
            rate_per_second: lane.bounds.rate_per_second,
            paused: lane.paused.clone(),
            breaker: reception.breaker.clone(),
            held: reception.held.clone(),
        }
    }
}
