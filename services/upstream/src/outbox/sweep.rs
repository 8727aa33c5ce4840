//! The sweeper: publishes rows of mode `outbox` that are due, of whichever process, and at once what this one knows to be in doubt.
//!
//! Every replica runs it; a claim moves the time at which a row is due, so no two publish it. Only while there is a broker: an outage claims
//! nothing. It takes pages whose bodies fit into `max_in_flight_bytes`, and a few at a time.
//!
//! What can fail: the process after a claim. The row is due again after `outbox_sweep_after_ms`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use countersign_boot::{Failpoint, failpoint};
use countersign_delivery::outbox::Outcome;
use countersign_delivery::ports::outbox::{Claim, Named};
use countersign_delivery::{Position, StoredMessage};
use countersign_telemetry::names;
use countersign_wire::publication::Publish;
use futures::future::join_all;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use crate::desk::Desk;
use crate::incarnations::note;
use crate::outbox::outcomes::Known;
use crate::outbox::{Outgoing, publish_group};
use crate::publish::by_required;
use crate::source::rebuild::{self, Whole};

/// Longest pause before it is looked again for what is due: one index is asked, which only has rows at 0.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// Pages that are being published at a time.
const AT_A_TIME: usize = 4;
/// Most rows of one claim.
const MAX_ROWS: usize = 256;
/// How often the rows that wait for a human are counted, and up to how many.
const COUNT_PAUSE: Duration = Duration::from_secs(10);
const MAX_COUNTED: u32 = 10_000;

/// Sweeps until the soft stop; what is claimed by then is published.
pub(crate) async fn run(desk: Arc<Desk>) {
    let (stop, at_a_time) = (desk.stop.soft_token(), Arc::new(Semaphore::new(AT_A_TIME)));
    let mut next_look = Instant::now();
    loop {
        let ready = async {
            desk.publisher.up().await;
            at_a_time.clone().acquire_owned().await.ok()
        };
        let Some(Some(permit)) = stop.run_until_cancelled(ready).await else { return };
        // What is claimed is published before the stop.
        let _busy = desk.busy.clone();
        let named = desk.waiting.take_due(Instant::now(), page_rows(&desk), desk.clock.now());
        let claimed = if !named.is_empty() {
            claim_named(&desk, named).await
        } else if Instant::now() >= next_look {
            claim_due(&desk).await
        } else {
            let (woken, due) = (desk.waiting.wake.notified(), desk.waiting.next_due().unwrap_or(next_look));
            let pause = async {
                tokio::select! {
                    () = woken => {}
                    () = sleep_until(next_look.min(due)) => {}
                }
            };
            if stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
            continue;
        };
        if claimed.is_empty() {
            next_look = next_look.max(Instant::now() + LOOK_PAUSE);
        } else {
            failpoint(Failpoint::OutboxAfterClaim);
            publish(&desk, claimed, permit).await;
        }
    }
}

fn page_rows(desk: &Desk) -> usize {
    desk.page_rows().min(MAX_ROWS)
}

fn limit(desk: &Desk) -> u32 {
    u32::try_from(page_rows(desk)).unwrap_or(u32::MAX)
}

/// Rows that are due, whoever stored them.
async fn claim_due(desk: &Desk) -> Vec<StoredMessage> {
    match desk.outbox.claim(&desk.config.name, &Claim::Due, limit(desk)).await {
        Ok(rows) => {
            metrics::counter!(names::OUTBOX_SWEPT_TOTAL).increment(u64::try_from(rows.len()).unwrap_or(0));
            rows
        }
        Err(error) => {
            note("due rows of the outbox cannot be claimed now", &error);
            Vec::new()
        }
    }
}

/// Rows of this process that are in doubt. Those that cannot be claimed have come to
/// their end meanwhile, or another sweeper has them.
async fn claim_named(desk: &Desk, named: Vec<Named>) -> Vec<StoredMessage> {
    let positions: Vec<Position> = named.iter().map(|named| named.position).collect();
    match desk.outbox.claim(&desk.config.name, &Claim::These(named), limit(desk)).await {
        Ok(rows) => {
            let claimed: HashSet<_> = rows.iter().map(|row| row.position).collect();
            for position in positions.into_iter().filter(|position| !claimed.contains(position)) {
                desk.waiting.forget(position);
            }
            rows
        }
        Err(error) => {
            note("rows of the outbox that are in doubt cannot be claimed now", &error);
            for position in positions {
                desk.waiting.doubt(position, true, |tries| desk.republish_at(tries));
            }
            Vec::new()
        }
    }
}

/// Publishes what was claimed, as soon as there is room for the bodies.
async fn publish(desk: &Arc<Desk>, rows: Vec<StoredMessage>, permit: OwnedSemaphorePermit) {
    let (permit, rows) = (Arc::new(permit), with_bodies(desk, rows).await);
    for rows in by_size(rows, desk.config.max_in_flight_bytes / 2) {
        let bodies: Vec<usize> = rows.iter().map(|row| row.message.body.len()).collect();
        // Half of the room is enough for each part, so this only waits.
        let Some(room) = desk.in_flight.wait_for_all(&bodies).await else { continue };
        let outgoing = rows.into_iter().zip(room).map(|(row, room)| {
            desk.waiting.hold(row.position, desk.clock.now());
            Outgoing { position: row.position, message: row.message, _room: room }
        });
        let groups = by_required(outgoing.collect(), |one| &one.message);
        let publishing = groups.into_iter().map(|group| publish_group(desk.clone(), group, Publish::AGAIN, desk.busy.clone()));
        let (publishing, permit) = (join_all(publishing.collect::<Vec<_>>()), permit.clone());
        desk.tasks.spawn("sweep outbox", async move {
            publishing.await;
            drop(permit);
        });
    }
}

/// The rows with their bodies. What its source has changed or lost counts as refused; what its source does not tell now stays in doubt.
async fn with_bodies(desk: &Arc<Desk>, rows: Vec<StoredMessage>) -> Vec<StoredMessage> {
    let (positions, messages): (Vec<_>, Vec<_>) = rows.into_iter().map(|row| (row.position, row.message)).unzip();
    let (mut ready, mut told) = (Vec::with_capacity(positions.len()), Vec::new());
    for (position, whole) in positions.into_iter().zip(rebuild::all(desk, messages).await) {
        let mut refused = |id, reason: &str| told.push((position, id, Outcome::Refused { reason: reason.into() }));
        match whole {
            Whole::Ready(message) => ready.push(StoredMessage { position, message }),
            Whole::Changed(message) => refused(message.id, "its body is not stored, and its source gives another one now"),
            Whole::Gone(message) => refused(message.id, "its body is not stored, and its source has it no more"),
            Whole::NotNow(message, why) => {
                tracing::warn!(id = %message.id, why, "cannot be published again yet");
                desk.waiting.doubt(position, true, |tries| desk.republish_at(tries));
            }
        }
    }
    desk.known.push(Known { told, _busy: desk.busy.clone() }).await;
    ready
}

/// Splits rows into parts whose bodies have at most `bytes`, or that are one row.
fn by_size(rows: Vec<StoredMessage>, bytes: usize) -> Vec<Vec<StoredMessage>> {
    let (mut parts, mut size) = (Vec::<Vec<StoredMessage>>::new(), 0);
    for row in rows {
        size += row.message.body.len();
        if let Some(part) = parts.last_mut().filter(|_| size <= bytes) {
            part.push(row);
        } else {
            size = row.message.body.len();
            parts.push(vec![row]);
        }
    }
    parts
}

/// Counts the rows that wait for a human until the soft stop.
pub(crate) async fn count(desk: Arc<Desk>) {
    let stop = desk.stop.soft_token();
    let counting = async {
        loop {
            match desk.outbox.count_failed(&desk.config.name, MAX_COUNTED).await {
                #[allow(clippy::cast_precision_loss, reason = "a gauge")]
                Ok(failed) => metrics::gauge!(names::OUTBOX_FAILED_ROWS).set(failed as f64),
                Err(error) => note("rows that wait for a human cannot be counted now", &error),
            }
            tokio::time::sleep(COUNT_PAUSE).await;
        }
    };
    stop.run_until_cancelled(counting).await;
}
