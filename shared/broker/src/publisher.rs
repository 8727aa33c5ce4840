//! Confirmed publishing: a handle for callers, and one task that owns the channel.
//!
//! lapin gives out delivery tags in one step and queues frames in the next, so that two tasks publishing on one channel mix up whose confirm
//! is whose. Hence callers hand their batches to [`pump::Pump`], which starts publishes in order, keeps at most a window of them in flight, and
//! gives every one an answer within the deadline.

mod kind;
mod ledger;
mod line;
mod penalty;
mod pump;
mod renewal;
mod wakes;

use std::sync::Arc;
use std::time::Duration;

use countersign_delivery::ports::broker::{Publication, Published};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::link::Link;
use pump::Pump;

/// Calls that may wait for the publishing task; more wait in their own callers.
const WAITING_CALLS: usize = 64;
/// What a caller allows the task beyond the deadline to say that it passed.
const GRACE: Duration = Duration::from_millis(500);

/// One call's publications.
#[derive(Debug)]
struct Request {
    publications: Vec<Publication>,
    /// After this moment none of them is started any more, so that what is started always has half of the time for its confirm.
    start_by: Instant,
    expires: Instant,
    reply: oneshot::Sender<Vec<Published>>,
}

/// The callers' side.
#[derive(Clone, Debug)]
pub(crate) struct PublisherHandle {
    requests: mpsc::Sender<Request>,
    up: watch::Receiver<bool>,
    confirm_timeout: Duration,
}

impl PublisherHandle {
    /// Starts the task. When `stop` is cancelled it takes no more calls, waits for what is in flight, and then cancels `done`.
    pub(crate) fn start(
        config: &Arc<Config>,
        link: Link,
        tasks: &TaskTracker,
        stop: CancellationToken,
        done: CancellationToken,
    ) -> Self {
        let (requests, incoming) = mpsc::channel(WAITING_CALLS);
        let up = watch::Sender::new(false);
        let handle = Self { requests, up: up.subscribe(), confirm_timeout: config.confirm_timeout() };
        let pump = Pump::new(config, link, incoming, up);
        tasks.spawn(async move {
            pump.run(stop).await;
            done.cancel();
        });
        handle
    }

    pub(crate) async fn publish(&self, publications: Vec<Publication>) -> Vec<Published> {
        let count = publications.len();
        if count == 0 {
            return Vec::new();
        }
        let called = Instant::now();
        let (reply, answer) = oneshot::channel();
        let start_by = called + self.confirm_timeout / 2;
        let expires = called + self.confirm_timeout;
        let request = Request { publications, start_by, expires, reply };
        let unknown = || vec![Published::Unknown; count];
        match timeout_at(start_by, self.requests.send(request)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return unknown(),
        }
        match timeout_at(expires + GRACE, answer).await {
            Ok(Ok(answers)) => answers,
            Ok(Err(_)) | Err(_) => unknown(),
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        *self.up.borrow()
    }

    pub(crate) async fn up(&self) {
        let mut up = self.up.clone();
        if up.wait_for(|up| *up).await.is_err() {
            // The task has ended; it will not be up again.
            std::future::pending::<()>().await;
        }
    }
}
