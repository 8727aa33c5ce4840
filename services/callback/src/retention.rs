//! Deletes what is settled and older than `retention_ms` from MSG DB, in bounded pages with pauses, never on the way of a receipt or check.
//!
//! What may be deleted is the port's rule ([`countersign_delivery::ports::deliveries::Deliveries::delete_settled`]). Every replica runs this; they need not know of each
//! other. Each walks by a cursor of its own, so that what stays, open or parked, is not looked at again and again; now and then it begins
//! anew, for what was settled behind it.
//!
//! **Invariant:** nothing goes before every check of its age has been handed out: no page is begun while checks wait in their queue. And what
//! nobody has signed for has a row by then, since its check parks it as expired: [`problem`] refuses a retention that leaves no time for that. So
//! a check without a row, older than what was deleted, is a copy of one that was judged ([`countersign_delivery::expiry`]).

use std::sync::Arc;
use std::time::Duration;

use countersign_boot::Context;
use countersign_delivery::Timestamp;
use countersign_delivery::horizon::longest_resend_horizon_ms;
use countersign_delivery::policy::Policy;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::broker::Consumers;
use countersign_delivery::ports::deliveries::DeliveryKey;
use countersign_delivery::topology::Topology;
use countersign_telemetry::{names, with_sources};
use tokio::time::sleep;

use crate::config::Callback;
use crate::desk::Desk;

/// Rows of one page at most.
pub const PAGE_ROWS: u32 = 1_000;
/// Pause between two pages: up to about 20,000 rows a second and replica.
const PAGE_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause before it is looked again for what has become old.
const LOOK_PAUSE: Duration = Duration::from_mins(1);
/// Shortest such pause, where the retention is short.
const SHORTEST_LOOK_PAUSE: Duration = Duration::from_millis(100);
/// What part of a short retention such a pause is.
const LOOKS_PER_RETENTION: u64 = 10;
/// How many looks go on after each other; then the walk begins anew. About a day, where the retention is long.
const LOOKS_PER_WALK: u32 = 1_440;

/// A table of MSG DB that grows, with its own period. One that is added to MSG DB is added here, and to [`shelves`].
#[derive(Debug)]
pub enum Shelf {
    /// Deliveries that are done or discarded, with their histories.
    Deliveries(Walk),
    /// Dead letters that were redriven, discarded, or whose delivery is done.
    DeadLetters {
        /// How long they are kept, milliseconds; 0: for ever.
        retention_ms: u64,
    },
}

/// Where a walk over old rows stands.
#[derive(Debug)]
pub struct Walk {
    retention_ms: u64,
    after: Option<DeliveryKey>,
    looks: u32,
}

/// Everything that is deleted when it is old, but for probes: storing one deletes old ones. A period of 0 is for ever.
///
/// Letters before deliveries: once its delivery is gone, a letter would look as if it waited for somebody.
#[must_use]
pub fn shelves(own: &Callback) -> Vec<Shelf> {
    vec![Shelf::DeadLetters { retention_ms: own.retention_ms }, Shelf::Deliveries(Walk::new(own.retention_ms))]
}

impl Shelf {
    /// The label of the metric.
    #[must_use]
    pub const fn what(&self) -> &'static str {
        match self {
            Self::Deliveries(_) => "deliveries",
            Self::DeadLetters { .. } => "dead_letters",
        }
    }

    /// After how long a row may go, milliseconds; 0: never.
    #[must_use]
    pub const fn retention_ms(&self) -> u64 {
        match self {
            Self::Deliveries(walk) => walk.retention_ms,
            Self::DeadLetters { retention_ms } => *retention_ms,
        }
    }

    /// Deletes from one page of what is older than `before`; how many rows. None: the end is reached.
    ///
    /// # Errors
    /// [`PortError`]: the same page is next again.
    pub async fn delete(&mut self, desk: &Desk, before: Timestamp) -> Result<Option<u64>, PortError> {
        match self {
            Self::Deliveries(walk) => walk.page(desk, before).await,
            Self::DeadLetters { .. } => {
                let rows = desk.letters.delete_settled(before, PAGE_ROWS).await?;
                Ok((rows > 0).then_some(rows))
            }
        }
    }
}

impl Walk {
    /// At the beginning.
    #[must_use]
    pub const fn new(retention_ms: u64) -> Self {
        Self { retention_ms, after: None, looks: 0 }
    }

    async fn page(&mut self, desk: &Desk, before: Timestamp) -> Result<Option<u64>, PortError> {
        let deleted = desk.deliveries.delete_settled(before, self.after.as_ref(), PAGE_ROWS).await?;
        if deleted.last.is_some() {
            self.after = deleted.last;
            return Ok(Some(deleted.rows));
        }
        self.looks += 1;
        if self.looks >= LOOKS_PER_WALK {
            (self.after, self.looks) = (None, 0);
        }
        Ok(None)
    }
}

/// Starts deleting from every shelf that has a period, one after the other, until the soft stop.
pub(crate) fn start(context: &Context, desk: &Desk, consumers: &Arc<dyn Consumers>, own: &Callback) {
    let shelves: Vec<Shelf> = shelves(own).into_iter().filter(|shelf| shelf.retention_ms() > 0).collect();
    if let Some(shortest_ms) = shelves.iter().map(Shelf::retention_ms).min() {
        let pause = Duration::from_millis(shortest_ms / LOOKS_PER_RETENTION).clamp(SHORTEST_LOOK_PAUSE, LOOK_PAUSE);
        let deleting = keep_deleting(desk.clone(), consumers.clone(), shelves, pause);
        drop(context.tasks.spawn("delete what is old", context.stop.soft_token().run_until_cancelled_owned(deleting)));
    }
}

async fn keep_deleting(desk: Desk, consumers: Arc<dyn Consumers>, mut shelves: Vec<Shelf>, pause: Duration) {
    loop {
        for shelf in &mut shelves {
            if let Err(error) = look(&desk, consumers.as_ref(), shelf).await {
                tracing::warn!(what = shelf.what(), error = with_sources(&error), "what is old cannot be deleted now");
                break;
            }
        }
        sleep(pause).await;
    }
}

/// Deletes page by page what is old by now, unless checks wait in their queue.
async fn look(desk: &Desk, consumers: &dyn Consumers, shelf: &mut Shelf) -> Result<(), PortError> {
    // The clock first: what is due later is not judged by an empty queue.
    let before = desk.deliveries.now().await?.minus_millis(shelf.retention_ms());
    if consumers.ready(&desk.topology.checks_queue()).await? > 0 {
        return Ok(());
    }
    while let Some(rows) = shelf.delete(desk, before).await? {
        if rows > 0 {
            metrics::counter!(names::MSG_DB_DELETED_TOTAL, "what" => shelf.what()).increment(rows);
        }
        sleep(PAGE_PAUSE).await;
    }
    Ok(())
}

/// What is wrong with the retention, with its remedy.
pub(crate) fn problem(own: &Callback, topology: &Topology, policy: &Policy) -> Option<String> {
    let horizon = longest_resend_horizon_ms(topology, policy, 0, 0);
    let expired = own.dedup_retention_ms.saturating_add(policy.overdue_ms);
    let least = horizon.max(expired);
    (own.retention_ms > 0 && own.retention_ms < least).then(|| {
        format!(
            "callback.retention_ms is {}, but must be at least {least}: dedup_retention_ms and policy.overdue_ms together ({expired}), so that what \
             nobody has signed for is parked before, and the longest time after which a message can be sent again ({horizon}); raise it, or \
             set it to 0 to keep everything",
            own.retention_ms
        )
    })
}
