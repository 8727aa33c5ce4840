//! Events: tells whoever listens what became of deliveries that did not go the straight way.
//!
//! MSG DB has a row for each, written together with what it tells of ([`countersign_delivery::ports::events`]). Any callback takes them with a
//! lease, publishes them to the topic exchange `<prefix>.events` under `<what>.<subscription>`, and deletes what the broker has confirmed. An event
//! that no queue takes has been told as well: nobody listens.
//!
//! What can fail: the broker (what it has refused comes again when its lease is over; what it has not answered is told again at once, before
//! anything later); this process between publish and delete (they come again under the same id when their lease is over); MSG DB (nothing is
//! published that was not read). Above [`ROWS_MAX`] rows the oldest are dropped, and counted: by then nobody has been told anything for very
//! long.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_boot::{Context, Failpoint, failpoint};
use countersign_delivery::Timestamp;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::broker::{Published, Publisher};
use countersign_delivery::ports::events::{Events, Recorded};
use countersign_telemetry::{names, with_sources};
use countersign_wire::events::to_exchange;
use tokio_util::sync::CancellationToken;

use crate::watch::every;

/// Events that are taken at once.
pub const TAKE_MAX: u32 = 256;
/// Events without an answer that are kept to be told again, at most.
const UNTOLD_MAX: usize = 1_024;
/// How long they are this callback's, milliseconds: longer than the broker's confirms take by default.
pub const LEASE_MS: u64 = 30_000;
/// Rows that wait for their publication, at most.
pub const ROWS_MAX: u64 = 1_000_000;
/// Between two looks at whether there are any.
const LOOK: Duration = Duration::from_secs(1);

/// What it takes to tell. Cheap to clone.
#[derive(Clone)]
pub struct Teller {
    /// MSG DB's events.
    pub events: Arc<dyn Events>,
    /// Where they go.
    pub publisher: Arc<dyn Publisher>,
    /// By this exchange.
    pub exchange: String,
    /// Taken, and left without an answer: told again together with the next, in order. What is beyond [`UNTOLD_MAX`] is left to its lease.
    untold: Arc<Mutex<Vec<Recorded>>>,
}

impl Teller {
    /// Tells these events by this publisher and exchange.
    #[must_use]
    pub fn new(events: Arc<dyn Events>, publisher: Arc<dyn Publisher>, exchange: String) -> Self {
        Self { events, publisher, exchange, untold: Arc::default() }
    }

    fn untold(&self) -> MutexGuard<'_, Vec<Recorded>> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the broker owes an answer for, and what is taken now, in the order of writing; each once.
    async fn next(&self) -> Result<Vec<Recorded>, PortError> {
        let taken = self.events.take(LEASE_MS, TAKE_MAX).await?;
        let untold = std::mem::take(&mut *self.untold());
        let next: BTreeMap<u64, Recorded> = untold.into_iter().chain(taken).map(|event| (event.number, event)).collect();
        Ok(next.into_values().collect())
    }
}

/// Publishes one round of events and deletes those that were told; how many were told. [`TAKE_MAX`] or more:
/// there may be others.
///
/// # Errors
/// [`PortError`] of MSG DB; what was published by then comes again.
pub async fn tell(teller: &Teller) -> Result<usize, PortError> {
    let dropped = teller.events.drop_oldest(ROWS_MAX).await?;
    if dropped > 0 {
        count("dropped", dropped);
        tracing::warn!(dropped, "too many events wait for their publication: the oldest are dropped");
    }
    if !teller.publisher.is_up() {
        return Ok(0);
    }
    let taken = teller.next().await?;
    if taken.is_empty() {
        return Ok(0);
    }
    let publications = taken.iter().map(|event| to_exchange(teller.exchange.clone(), event, &rfc3339(event.happening.at)));
    let outcomes = teller.publisher.publish(publications.collect()).await;
    failpoint(Failpoint::CallbackAfterEventPublish);
    let (mut told, mut untold) = (Vec::with_capacity(taken.len()), Vec::new());
    for (event, outcome) in taken.into_iter().zip(outcomes) {
        let (word, is_told) = judge(&outcome);
        count(word, 1);
        match outcome {
            _ if is_told => told.push(event),
            Published::Unknown if untold.len() < UNTOLD_MAX => untold.push(event),
            _ => {}
        }
    }
    *teller.untold() = untold;
    if !told.is_empty() {
        teller.events.published(&told).await?;
    }
    Ok(told.len())
}

/// The outcome's word, and whether there is nothing left to do.
const fn judge(outcome: &Published) -> (&'static str, bool) {
    match outcome {
        Published::Confirmed => ("published", true),
        Published::Returned { .. } => ("unheard", true),
        Published::Nacked => ("refused", false),
        Published::Unknown => ("unknown", false),
    }
}

/// A time as CloudEvents have it; the start of time for what no calendar has.
fn rfc3339(time: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(time.as_millis()).unwrap_or_default().to_string()
}

fn count(outcome: &'static str, events: u64) {
    metrics::counter!(names::EVENTS_TOTAL, "outcome" => outcome).increment(events);
}

/// Tells until soft stop, once the exchange is there: publishing to one that is not costs a channel.
pub(crate) fn start(context: &Context, teller: Teller, declared: CancellationToken) {
    let stop = context.stop.clone();
    every(context, "tell events", LOOK, move || {
        let (teller, declared, stop) = (teller.clone(), declared.clone(), stop.clone());
        async move {
            while declared.is_cancelled() && !stop.is_soft() {
                match tell(&teller).await {
                    Ok(told) if told >= usize::try_from(TAKE_MAX).unwrap_or(usize::MAX) => {}
                    Ok(_) => return,
                    Err(error) => return tracing::warn!(error = with_sources(&error), "events could not be told"),
                }
            }
        }
    });
}
