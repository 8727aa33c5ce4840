//! The confirm listener: what the broker said, gathered and written down, many rows with one UPDATE.
//!
//! While one batch is being written the next one gathers by itself; a lone outcome waits a few milliseconds for company, and nobody for it:
//! its caller has the answer already.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use countersign_boot::{Failpoint, failpoint};
use countersign_delivery::outbox::{Outcome, Patience};
use countersign_delivery::topology::Mode;
use countersign_delivery::{MessageId, Position};
use countersign_telemetry::names;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use crate::config::UpstreamSection;
use crate::counters;
use crate::desk::Desk;
use crate::incarnations::note;

/// Groups of outcomes that may wait to be written, each of one publish; whoever publishes faster waits.
const QUEUE: usize = 64;
/// Rows of one UPDATE.
const BATCH: usize = 256;
/// How long outcomes wait for others to share an UPDATE with.
const LINGER: Duration = Duration::from_millis(5);
/// How long to wait before the database is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// What the broker said to one publish.
#[derive(Debug)]
pub(crate) struct Known {
    /// By row.
    pub told: Vec<(Position, MessageId, Outcome)>,
    /// Held until it is written.
    pub _busy: Arc<()>,
}

/// The way to the listener.
#[derive(Clone, Debug)]
pub(crate) struct KnownQueue(mpsc::Sender<Known>);

impl KnownQueue {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Known>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self(sender), receiver)
    }

    /// Puts outcomes in line; waits while too many do.
    pub(crate) async fn push(&self, known: Known) {
        if !known.told.is_empty() {
            // The other end lives until everything is drained; after the hard stop the rows are swept.
            let _ = self.0.send(known).await;
        }
    }
}

/// Writes until everything is finished.
pub(crate) async fn run(desk: Arc<Desk>, mut receiver: mpsc::Receiver<Known>) {
    let finished = desk.finished.clone();
    let writing = async {
        loop {
            let batch = gather(&mut receiver).await;
            if batch.is_empty() {
                return;
            }
            let told = batch.iter().flat_map(|known| &known.told);
            let mut rows: BTreeMap<Position, (MessageId, Outcome)> = BTreeMap::new();
            for (position, id, outcome) in told {
                // Two answers for one row: a confirm counts.
                if !matches!(rows.get(position), Some((_, Outcome::Confirmed))) {
                    rows.insert(*position, (*id, outcome.clone()));
                }
            }
            let rows: Vec<_> = rows.into_iter().collect();
            for rows in rows.chunks(BATCH) {
                write(&desk, rows).await;
            }
            drop(batch);
        }
    };
    finished.run_until_cancelled(writing).await;
}

async fn gather(receiver: &mut mpsc::Receiver<Known>) -> Vec<Known> {
    let Some(first) = receiver.recv().await else { return Vec::new() };
    let (mut count, mut batch) = (first.told.len(), vec![first]);
    let until = Instant::now() + LINGER;
    while count < BATCH {
        let Ok(Some(more)) = timeout_at(until, receiver.recv()).await else { break };
        count += more.told.len();
        batch.push(more);
    }
    batch
}

/// Writes one batch, however long the database is away: what is not written is published again.
async fn write(desk: &Desk, rows: &[(Position, (MessageId, Outcome))]) {
    let outcomes: Vec<_> = rows.iter().map(|(position, (_, outcome))| (*position, outcome.clone())).collect();
    failpoint(Failpoint::OutboxAfterConfirm);
    let failed = loop {
        match desk.outbox.record(&outcomes, patience(&desk.config)).await {
            Ok(failed) => break failed,
            Err(error) => note("outcomes of the outbox cannot be written yet", &error),
        }
        sleep(PAUSE).await;
    };
    let look_again = Instant::now() + Duration::from_millis(desk.config.republish_max_ms);
    for (position, (id, outcome)) in rows {
        match outcome {
            Outcome::Confirmed => {
                counters::settled(Mode::Outbox);
                desk.waiting.forget(*position);
            }
            Outcome::Refused { reason } if failed.contains(position) => {
                tracing::error!(%id, reason, "refused too often: it waits for a human (countersign outbox list)");
                metrics::counter!(names::OUTBOX_FAILED_TOTAL).increment(1);
                desk.waiting.forget(*position);
            }
            // A sweeper publishes it when it is due; if that is another process, this one asks later what became of it.
            Outcome::Refused { .. } => desk.waiting.refused(*position, look_again, desk.clock.now()),
        }
    }
}

/// How patient this upstream is with a broker that refuses.
pub(crate) const fn patience(section: &UpstreamSection) -> Patience {
    let UpstreamSection { outbox_max_tries, republish_min_ms, republish_max_ms, .. } = section;
    Patience { max_tries: *outbox_max_tries, min_pause_ms: *republish_min_ms, max_pause_ms: *republish_max_ms }
}
