//! Telling callback: each telling is published again and again until the broker has confirmed it, or the process stops.

use std::sync::Arc;
use std::time::Duration;

use countersign_boot::{Stop, Tasks};
use countersign_delivery::ports::Ids;
use countersign_delivery::ports::audit::ToldAct;
use countersign_delivery::ports::broker::{Published, Publisher};
use countersign_telemetry::names;
use countersign_wire::acts;
use tokio::sync::Semaphore;

/// How long an operator waits for the broker to take a telling at most.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(2);
/// Tellings that wait for the broker at a time; further ones are missing from the audit.
pub(crate) const WAITING_MAX: usize = 256;
/// The first pause before a telling is published again; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The way to callback. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(crate) struct Teller {
    pub publisher: Arc<dyn Publisher>,
    pub ids: Arc<dyn Ids>,
    /// The receipts queue.
    pub queue: String,
    pub tasks: Tasks,
    pub stop: Stop,
    /// Room for what waits.
    pub room: Arc<Semaphore>,
}

impl Teller {
    /// Tells, and waits for the confirm for [`WAIT_MAX`]. False: it may still come, or is missing by now.
    pub(crate) async fn tell(&self, acts: Vec<ToldAct>) -> bool {
        let Some(telling) = self.start(acts) else { return false };
        matches!(tokio::time::timeout(WAIT_MAX, telling).await, Ok(Ok(true)))
    }

    /// Tells, and waits for nothing.
    pub(crate) fn mention(&self, acts: Vec<ToldAct>) {
        drop(self.start(acts));
    }

    fn start(&self, acts: Vec<ToldAct>) -> Option<tokio::task::JoinHandle<bool>> {
        let Ok(place) = self.room.clone().try_acquire_owned() else {
            missing(&acts, "too many wait for the broker");
            return None;
        };
        let this = self.clone();
        Some(self.tasks.spawn("tell callback of an operator's act", async move {
            let _place = place;
            this.publish(acts).await
        }))
    }

    /// Publishes until it is confirmed. After a soft stop once more, and then no more.
    async fn publish(&self, told: Vec<ToldAct>) -> bool {
        let mut pause = PAUSE_MIN;
        loop {
            let last = self.stop.is_soft();
            let id = format!("acts/{}", self.ids.uuid());
            let publications = vec![acts::publication(&told, id, self.queue.clone())];
            let published = tokio::select! {
                biased;
                published = self.publisher.publish(publications) => published,
                () = self.stop.hard() => Vec::new(),
            };
            let outcome = published.first().unwrap_or(&Published::Unknown);
            if *outcome == Published::Confirmed {
                return true;
            }
            if last {
                missing(&told, "the process stops and the broker has not taken it");
                return false;
            }
            tracing::warn!(?outcome, queue = %self.queue, "an operator's act is not in the audit yet: it is told again");
            tokio::select! {
                () = self.stop.soft() => {}
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
            }
        }
    }
}

/// The log is the only record of these.
fn missing(acts: &[ToldAct], why: &'static str) {
    for told in acts {
        let ToldAct { id, by, act, target, subscription, reason, result, detail, .. } = told;
        metrics::counter!(names::AUDIT_MISSING_TOTAL, "act" => act.clone()).increment(1);
        let result = result.as_str();
        tracing::error!(%id, act, by, target, subscription, reason, result, detail, why, "an operator's act is missing from the audit");
    }
}
