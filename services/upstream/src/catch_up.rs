//! Publishes again what is not confirmed: from the table, since no body is kept in memory.
//!
//! It uses a quarter of `max_in_flight_bytes` at most, so new messages never wait for old ones.

use std::collections::HashMap;
use std::sync::Arc;

use countersign_delivery::ports::messages::Entombed;
use countersign_delivery::{Attempt, Message, Seq};
use countersign_telemetry::invariants;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

use crate::check_queue::{Done, Scheduled};
use crate::commit::doubt::entomb;
use crate::desk::Desk;
use crate::incarnations::note;
use crate::ledger::{Due, Ledger, What};
use crate::publish;

/// Batches that are being published again at a time.
const AT_A_TIME: usize = 2;
/// Messages of one of them that are with the broker at a time: what is new stands in line behind them.
const IN_FLIGHT: usize = 64;
/// Which part of the room for bodies one of them may take.
pub(crate) const SHARE: usize = 8;

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
    let due = |ledger: Arc<Ledger>| {
        let due = ledger.take_due(Instant::now());
        (ledger, due)
    };
    desk.incarnations.all().into_iter().map(due).filter(|(_, due)| !due.is_empty()).collect()
}

/// Publishes what is due of one ledger and waits for the outcomes.
async fn publish_due(desk: &Arc<Desk>, ledger: &Arc<Ledger>, due: Vec<Due>) {
    let (mut rows, mut scheduled) = (Vec::new(), Vec::new());
    for (what, seq, message) in read(desk, ledger, due).await {
        match what {
            What::Message => rows.push((seq, message)),
            What::Check => {
                let done = Done::Settle(ledger.clone(), seq);
                scheduled.push(Scheduled::of(&message, Attempt::FIRST, message.required.clone(), done));
            }
        }
    }
    desk.checks.schedule(scheduled).await;
    while !rows.is_empty() {
        let rest = rows.split_off(IN_FLIGHT.min(rows.len()));
        publish::again_and_wait(desk, ledger, std::mem::replace(&mut rows, rest)).await;
    }
}

/// Reads messages back; those that cannot be read now are deferred, those that are not there are resolved.
async fn read(desk: &Desk, ledger: &Arc<Ledger>, due: Vec<Due>) -> Vec<(What, Seq, Message)> {
    let seqs: Vec<Seq> = due.iter().map(|due| due.seq).collect();
    let mut found: HashMap<Seq, Message> = match desk.messages.at(ledger.incarnation(), &seqs).await {
        Ok(found) => found.into_iter().map(|stored| (stored.position.seq, stored.message)).collect(),
        Err(error) => {
            note("unsettled messages cannot be read", &error);
            for Due { seq, again } in due {
                ledger.defer(seq, again, true, |tries| desk.republish_at(tries));
            }
            return Vec::new();
        }
    };
    let mut rows = Vec::with_capacity(due.len());
    for Due { seq, again } in due {
        let message = match found.remove(&seq) {
            Some(message) => Some(message),
            None => missing(desk, ledger, seq).await,
        };
        rows.extend(message.map(|message| (again.what, seq, message)));
    }
    rows
}

/// A committed row that was not found: somebody deleted it. Its place decides.
async fn missing(desk: &Desk, ledger: &Ledger, seq: Seq) -> Option<Message> {
    match entomb(desk, ledger, seq).await? {
        Entombed::Committed(stored) => Some(stored.message),
        Entombed::RolledBack => {
            let place = format!("seq {} of incarnation {}", seq.0, ledger.incarnation());
            invariants::violated(
                "I1",
                &format!("the committed message at {place} was deleted before it was settled: it is lost"),
            );
            drop(ledger.roll_back(seq));
            None
        }
    }
}
