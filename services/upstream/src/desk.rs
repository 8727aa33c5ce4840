//! What every part of a running upstream shares.

use std::sync::Arc;
use std::time::Duration;

use countersign_boot::{Context, Stop, Tasks};
use countersign_delivery::Topology;
use countersign_delivery::ports::broker::Publisher;
use countersign_delivery::ports::messages::Messages;
use countersign_delivery::ports::outbox::Outbox;
use countersign_delivery::ports::stored::Stored;
use countersign_delivery::ports::{Clock, Ids};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::catch_up;
use crate::check_queue::CheckQueue;
use crate::commit::CommitQueue;
use crate::config::UpstreamSection;
use crate::fullness::Fullness;
use crate::incarnations::{Bounds, Incarnations};
use crate::outbox::outcomes::KnownQueue;
use crate::outbox::waiting::Waiting;
use crate::refusal::Refusal;
use crate::room::Room;
use crate::source::Sources;

/// The two worlds upstream stands between.
#[derive(Clone)]
pub struct Ports {
    /// The business database.
    pub messages: Arc<dyn Messages>,
    /// Its rows of mode `outbox`.
    pub outbox: Arc<dyn Outbox>,
    /// Its messages in the order of time.
    pub stored: Arc<dyn Stored>,
    /// The broker.
    pub publisher: Arc<dyn Publisher>,
    /// Where bodies come from that are not stored.
    pub(crate) sources: Sources,
}

/// What every part shares.
pub(crate) struct Desk {
    pub config: UpstreamSection,
    pub topology: Topology,
    pub messages: Arc<dyn Messages>,
    pub outbox: Arc<dyn Outbox>,
    pub stored: Arc<dyn Stored>,
    pub publisher: Arc<dyn Publisher>,
    pub sources: Sources,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
    pub tasks: Tasks,
    pub stop: Stop,
    pub incarnations: Incarnations,
    pub commits: CommitQueue,
    pub checks: CheckQueue,
    /// Rows of mode `outbox` whose status is not written yet.
    pub waiting: Waiting,
    pub known: KnownQueue,
    /// Bodies that wait for their commit.
    pub queued: Room,
    /// Bodies that are being published.
    pub in_flight: Room,
    /// Which queues refused when they were last tried.
    pub fullness: Fullness,
    /// One place for each message of ours that is accepted and not settled.
    pub places: Arc<Semaphore>,
    /// A clone is held by whatever must come to its end before the stop, beside what the ledgers hold.
    pub busy: Arc<()>,
    /// Everything is drained, or the hard stop has come: loops end.
    pub finished: CancellationToken,
}

impl Desk {
    pub(crate) fn new(
        config: UpstreamSection,
        topology: Topology,
        ports: Ports,
        context: &Context,
        (checks, known): (CheckQueue, KnownQueue),
        finished: CancellationToken,
    ) -> Arc<Self> {
        let bounds = Bounds {
            max_outstanding: config.max_outstanding,
            max_incarnations: config.max_incarnations,
            page_bytes: config.max_in_flight_bytes / catch_up::SHARE,
        };
        let Ports { messages, outbox, stored, publisher, sources } = ports;
        Arc::new(Self {
            incarnations: Incarnations::new(
                config.name.clone(),
                messages.clone(),
                (context.clock.clone(), context.ids.clone()),
                bounds,
            ),
            commits: CommitQueue::default(),
            checks,
            waiting: Waiting::default(),
            known,
            queued: Room::of(config.max_queued_bytes),
            in_flight: Room::of(config.max_in_flight_bytes),
            fullness: Fullness::default(),
            places: Arc::new(Semaphore::new(config.max_unconfirmed)),
            busy: Arc::default(),
            finished,
            clock: context.clock.clone(),
            ids: context.ids.clone(),
            tasks: context.tasks.clone(),
            stop: context.stop.clone(),
            messages,
            outbox,
            stored,
            publisher,
            sources,
            topology,
            config,
        })
    }

    /// How many messages of ours are accepted and not settled.
    pub(crate) fn unconfirmed(&self) -> usize {
        self.config.max_unconfirmed.saturating_sub(self.places.available_permits())
    }

    /// One of the `max_unconfirmed` places.
    pub(crate) fn place(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        self.places.clone().try_acquire_owned().map_err(|_| {
            let what = format!("{} messages wait for the broker (max_unconfirmed)", self.config.max_unconfirmed);
            Refusal::Exhausted { what, retry_ms: self.config.retry_after_ms }
        })
    }

    /// When a message that was tried `tries` times is published again.
    pub(crate) fn republish_at(&self, tries: u32) -> Instant {
        let UpstreamSection { republish_min_ms: min, republish_max_ms: max, .. } = self.config;
        let millis = if tries == 0 { 0 } else { min.saturating_mul(1 << (tries - 1).min(20)).min(max) };
        Instant::now() + Duration::from_millis(millis)
    }

    /// How many rows of the table are read at a time: as many as fit into the bound of bodies in flight, whatever their size.
    pub(crate) fn page_rows(&self) -> usize {
        (self.config.max_in_flight_bytes / self.config.max_body_bytes).clamp(1, self.config.commit_batch)
    }
}
