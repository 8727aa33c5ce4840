//! Gathers checks into batches: what is there, and under load what comes within `check_linger_ms`; at most `max_batch`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use countersign_delivery::check::Check;
use countersign_delivery::{Attempt, Message, Seq, SubscriptionName};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::desk::Desk;
use crate::ledger::Ledger;
use crate::schedule_check::schedule_checks;

/// Groups of checks that may wait for a batch, each of one publish; whoever publishes faster waits.
const QUEUE: usize = 64;
/// Check batches that may be unconfirmed at a time.
const IN_FLIGHT: usize = 16;

/// Who is told that a check is confirmed.
#[derive(Debug)]
pub(crate) enum Done {
    /// A message of this ledger, which is settled by it.
    Settle(Arc<Ledger>, Seq),
    /// Whoever ordered it.
    Answer(oneshot::Sender<bool>),
}

/// One check that is to be published. Its message is confirmed.
#[derive(Debug)]
pub(crate) struct Scheduled {
    pub check: Check,
    pub done: Done,
    /// How large its message's body is.
    pub bytes: usize,
}

impl Scheduled {
    /// The check of one publish of a message.
    pub(crate) fn of(message: &Message, attempt: Attempt, required: Vec<SubscriptionName>, done: Done) -> Self {
        let check = Check {
            message_id: message.id,
            fingerprint: message.fingerprint.clone(),
            attempt,
            waits: 0,
            sent_at: message.sent_at,
            required,
            marks: Vec::new(),
            trace: message.trace.clone(),
        };
        Self { check, done, bytes: message.body.len() }
    }
}

/// The way into the batches.
#[derive(Clone, Debug)]
pub(crate) struct CheckQueue(mpsc::Sender<Vec<Scheduled>>);

/// The other end.
#[derive(Debug)]
pub(crate) struct CheckReceiver {
    groups: mpsc::Receiver<Vec<Scheduled>>,
    /// What did not fit into the last batch.
    rest: VecDeque<Scheduled>,
}

impl CheckQueue {
    pub(crate) fn new() -> (Self, CheckReceiver) {
        let (sender, groups) = mpsc::channel(QUEUE);
        (Self(sender), CheckReceiver { groups, rest: VecDeque::new() })
    }

    /// Puts checks in line; waits while too many do.
    pub(crate) async fn schedule(&self, group: Vec<Scheduled>) {
        if !group.is_empty() {
            // The other end lives until everything is drained; after the hard stop an unsettled message is left to adoption.
            let _ = self.0.send(group).await;
        }
    }
}

/// Publishes batches until everything is finished.
pub(crate) async fn run(desk: Arc<Desk>, mut receiver: CheckReceiver) {
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT));
    loop {
        let gathering = receiver.gather(&desk, &in_flight);
        let Some(batch) = desk.finished.run_until_cancelled(gathering).await else { return };
        let Ok(permit) = in_flight.clone().acquire_owned().await else { return };
        if batch.is_empty() {
            return;
        }
        let task = desk.clone();
        desk.tasks.spawn("publish checks", async move {
            schedule_checks(&task, batch).await;
            drop(permit);
        });
    }
}

impl CheckReceiver {
    /// Takes what is there. It lingers for more only while another batch is in flight: a lone message does not wait.
    async fn gather(&mut self, desk: &Desk, in_flight: &Semaphore) -> Vec<Scheduled> {
        let max = desk.config.max_batch;
        if self.rest.is_empty() {
            self.rest.extend(self.groups.recv().await.unwrap_or_default());
        }
        while self.rest.len() < max
            && let Ok(group) = self.groups.try_recv()
        {
            self.rest.extend(group);
        }
        let linger = Duration::from_millis(desk.config.check_linger_ms);
        let until = Instant::now() + linger;
        while self.rest.len() < max && in_flight.available_permits() < IN_FLIGHT {
            match timeout_at(until, self.groups.recv()).await {
                Ok(Some(group)) => self.rest.extend(group),
                Ok(None) | Err(_) => break,
            }
        }
        self.rest.drain(..max.min(self.rest.len())).collect()
    }
}
