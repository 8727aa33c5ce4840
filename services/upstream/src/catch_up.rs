//! Publishes again what is not confirmed: from the table, since no body is kept in memory.
//!
//! It uses a quarter of `max_in_flight_bytes` at most, so new messages never wait for old ones.

use std::sync::Arc;

use countersign_delivery::ports::messages::Entombed;
use countersign_delivery::{Message, MessageId, Seq};
use countersign_telemetry::invariants;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

use crate::check_queue::{Done, Scheduled};
use crate::commit::doubt::entomb;
use crate::desk::Desk;
use crate::incarnations::note;
use crate::ledger::{Again, Due, Ledger};
use crate::publish;

/// Batches that are being published again at a time.
const AT_A_TIME: usize = 2;
/// Which part of the room for bodies one of them may take.
const SHARE: usize = 8;

/// Runs until everything is finished.
pub(crate) async fn run(desk: Arc<Desk>) {
    let finished = desk.finished.clone();
    finished.run_until_cancelled(catch_up(desk)).await;
}

async fn catch_up(desk: Arc<Desk>) {
    let at_a_time = Arc::new(Semaphore::new(AT_A_TIME));
    loop {
        desk.publisher.up().await;
        let Ok(permit) = at_a_time.clone().acquire_owned().await else { return };
        let woken = desk.incarnations.wake.notified();
        let batches = due_now(&desk);
        if batches.is_empty() {
            drop(permit);
            let next = desk.incarnations.all().iter().filter_map(|ledger| ledger.next_due()).min();
            tokio::select! {
                () = woken => {}
                () = async { sleep_until(next.unwrap_or_else(Instant::now)).await }, if next.is_some() => {}
            }
            continue;
        }
        let task = desk.clone();
        desk.tasks.spawn("catch up", async move {
            for (ledger, due) in batches {
                publish_due(&task, &ledger, due).await;
            }
            drop(permit);
        });
    }
}

/// What is due in each ledger, within one share of the room.
fn due_now(desk: &Desk) -> Vec<(Arc<Ledger>, Vec<Due>)> {
    let (rows, bytes) = (desk.config.commit_batch, desk.config.max_in_flight_bytes / SHARE);
    let due = |ledger: Arc<Ledger>| {
        let due = ledger.take_due(Instant::now(), rows, bytes);
        (ledger, due)
    };
    desk.incarnations.all().into_iter().map(due).filter(|(_, due)| !due.is_empty()).collect()
}

/// Publishes what is due of one ledger and waits for the outcomes.
async fn publish_due(desk: &Arc<Desk>, ledger: &Arc<Ledger>, due: Vec<Due>) {
    let (mut wanted, mut scheduled) = (Vec::new(), Vec::new());
    for Due { seq, again } in due {
        match again {
            Again::Check(check) => {
                scheduled.push(Scheduled { check: *check, done: Done::Settle(ledger.clone(), seq) });
            }
            Again::Message { id, bytes } => wanted.push((seq, id, bytes)),
        }
    }
    desk.checks.schedule(scheduled).await;
    if wanted.is_empty() {
        return;
    }
    let rows = read(desk, ledger, wanted).await;
    publish::again_and_wait(desk, ledger, rows).await;
}

/// Reads messages back; those that cannot be read now are deferred, those that are not there are resolved.
async fn read(desk: &Desk, ledger: &Arc<Ledger>, wanted: Vec<(Seq, MessageId, usize)>) -> Vec<(Seq, Message)> {
    let ids: Vec<MessageId> = wanted.iter().map(|(_, id, _)| *id).collect();
    let found = match desk.messages.get(&ids).await {
        Ok(found) => found,
        Err(error) => {
            note("unsettled messages cannot be read", &error);
            for (seq, id, bytes) in wanted {
                ledger.defer(seq, Again::Message { id, bytes }, true, |tries| desk.republish_at(tries));
            }
            return Vec::new();
        }
    };
    let mut rows: Vec<_> = found.into_iter().map(|stored| (stored.position.seq, stored.message)).collect();
    rows.sort_unstable_by_key(|(seq, _)| *seq);
    for (seq, id, _) in wanted {
        if rows.binary_search_by_key(&seq, |(seq, _)| *seq).is_err() {
            rows.extend(missing(desk, ledger, seq, id).await);
        }
    }
    rows
}

/// A committed row that is not there: somebody deleted it, or it moved. Its place decides.
async fn missing(desk: &Desk, ledger: &Ledger, seq: Seq, id: MessageId) -> Option<(Seq, Message)> {
    match entomb(desk, ledger, seq).await? {
        Entombed::Committed(stored) => Some((seq, stored.message)),
        Entombed::RolledBack => {
            invariants::violated("I1", &format!("the committed message {id} was deleted before it was settled: it is lost"));
            drop(ledger.roll_back(seq));
            None
        }
    }
}
