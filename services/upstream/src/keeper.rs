//! The heartbeat, readiness, and the orderly end.
//!
//! Readiness is the truth about sends: they need the database; without the broker they are still stored, until `max_unconfirmed`
//! wait for it. So the broker makes this process unready only then, and before it was seen for the first time.

use std::sync::Arc;
use std::time::Duration;

use countersign_boot::Dependency;
use countersign_telemetry::names;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use crate::desk::Desk;
use crate::incarnations::note;
use countersign_telemetry::with_sources;

/// How often a stopping process looks whether it is drained.
const DRAIN_LOOK: Duration = Duration::from_millis(20);
/// How long a stopping process waits for a broker that is away; then what is unsettled is left to adoption.
const DRAIN_WITHOUT_BROKER: Duration = Duration::from_secs(1);

/// What readiness is told.
pub(crate) struct Vitals {
    pub database: Dependency,
    pub broker: Dependency,
    /// How the broker stands, in words.
    pub broker_state: Box<dyn Fn() -> String + Send + Sync>,
}

/// Beats until everything is drained after the soft stop, or until the hard stop; then ends all other tasks.
pub(crate) async fn run(desk: Arc<Desk>, vitals: Vitals) {
    let (soft, hard) = (desk.stop.soft_token(), desk.stop.hard_token());
    let mut health = BrokerHealth { seen: false, degraded: false, began: Instant::now(), vitals };
    let living = async {
        let mut ticks = interval(Duration::from_millis(desk.config.heartbeat_ms));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while soft.run_until_cancelled(next(&desk, &mut ticks, health.seen)).await.is_some() {
            tick(&desk, &mut health).await;
        }
        drain(&desk).await;
    };
    hard.run_until_cancelled(living).await;
    desk.finished.cancel();
}

/// The next tick; the first sight of the broker does not wait for it.
async fn next(desk: &Desk, ticks: &mut Interval, seen: bool) {
    tokio::select! {
        _ = ticks.tick() => {}
        () = desk.publisher.up(), if !seen => {}
    }
}

/// One heartbeat, and what is looked at once a heartbeat.
async fn tick(desk: &Desk, health: &mut BrokerHealth) {
    let opened = desk.incarnations.accepting().await;
    // Older ones beat even if none can be opened.
    let beaten = desk.incarnations.beat().await;
    match opened.and(beaten) {
        Ok(()) => health.vitals.database.ready(),
        Err(error) => {
            note("no heartbeat", &error);
            health.vitals.database.unready(with_sources(&error));
        }
    }
    if let Err(error) = desk.incarnations.limit_lag().await {
        note("no further incarnation could be opened", &error);
    }
    health.look(desk);
    measure(desk);
}

/// Finishes what is in flight, beating all the while; closes what is drained.
async fn drain(desk: &Desk) {
    let mut looks = interval(DRAIN_LOOK);
    let (mut next_beat, mut with_broker) = (Instant::now(), Instant::now());
    loop {
        looks.tick().await;
        let now = Instant::now();
        if desk.queued.is_empty() {
            desk.incarnations.stop_accepting();
        }
        let own = desk.incarnations.all_own();
        let drained = own.iter().all(|ledger| ledger.is_drained()) && Arc::strong_count(&desk.busy) == 1;
        if desk.publisher.is_up() || !desk.in_flight.is_empty() {
            with_broker = now;
        }
        let left = !drained && now - with_broker > DRAIN_WITHOUT_BROKER;
        if drained || left || now >= next_beat {
            next_beat = now + Duration::from_millis(desk.config.heartbeat_ms);
            if let Err(error) = desk.incarnations.beat().await {
                note("no last heartbeat", &error);
            }
        }
        if drained || left {
            let unsettled: usize = own.iter().map(|ledger| ledger.backlog().0).sum();
            tracing::info!(unsettled, "stopped; what is unsettled is left to adoption");
            return;
        }
    }
}

/// What readiness says about the broker.
struct BrokerHealth {
    seen: bool,
    degraded: bool,
    began: Instant,
    vitals: Vitals,
}

impl BrokerHealth {
    fn look(&mut self, desk: &Desk) {
        let up = desk.publisher.is_up();
        self.seen |= up;
        let waiting_for_it = !self.seen && self.began.elapsed() < Duration::from_millis(desk.config.start_wait_ms);
        let full = desk.places.available_permits() == 0;
        if waiting_for_it {
            self.vitals.broker.unready(format!("not reached yet: {}", (self.vitals.broker_state)()));
        } else if full && !up {
            let words =
                format!("{}; {} messages wait for it (max_unconfirmed)", (self.vitals.broker_state)(), desk.unconfirmed());
            self.vitals.broker.unready(words);
        } else {
            self.vitals.broker.ready();
        }
        if up == self.degraded && !waiting_for_it {
            self.degraded = !up;
            if self.degraded {
                tracing::warn!(
                    state = (self.vitals.broker_state)(),
                    "the broker is away: sends are stored, and published when it is back"
                );
            } else {
                tracing::info!(unconfirmed = desk.unconfirmed(), "the broker is back");
            }
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "a gauge")]
fn measure(desk: &Desk) {
    let backlogs: Vec<_> = desk.incarnations.all().iter().map(|ledger| ledger.backlog()).collect();
    let unsettled: usize = backlogs.iter().map(|(count, _)| count).sum();
    let oldest = backlogs.iter().filter_map(|(_, since)| *since).min();
    metrics::gauge!(names::UNCONFIRMED_MESSAGES).set(unsettled as f64);
    metrics::gauge!(names::WATERMARK_LAG_SECONDS).set(oldest.map_or(0.0, |since| since.elapsed().as_secs_f64()));
}
