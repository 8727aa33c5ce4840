//! Canaries: once a minute a check of nothing through every tier, which must come due like all others.
//!
//! Checks find what is lost; nobody would find that checks themselves no longer come due: a tier whose target is gone, a policy that
//! undoes dead-lettering, a queue of due checks that nobody consumes. So each callback sends a canary through each tier, and whichever
//! callback gets it says until when that tier is known to work. What becomes of messages is what checks are for: the canary has no row,
//! no message and no handler.
//!
//! What can fail: the broker (it is counted as not sent, and the next one follows). A lost canary costs nothing; an alert watches their age.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use countersign_boot::Context;
use countersign_delivery::check::Canary;
use countersign_delivery::{Timestamp, Topology};
use countersign_telemetry::names;
use countersign_wire::canaries;
use tokio_util::sync::CancellationToken;

use crate::desk::{Desk, refusal};

/// Until when each check tier is known to work here. Bounded by the topology: one entry a tier.
#[derive(Debug, Default)]
pub struct Canaries(Mutex<BTreeMap<u64, Timestamp>>);

impl Canaries {
    /// Nothing can have come back before it could be due: what the metrics say until then.
    fn begin(&self, topology: &Topology, now: Timestamp) {
        for delay_ms in topology.check_tiers() {
            metrics::counter!(names::CANARY_SENT_TOTAL, "delay_ms" => delay_ms.to_string()).increment(0);
            metrics::counter!(names::CANARY_RETURNED_TOTAL, "delay_ms" => delay_ms.to_string()).increment(0);
            self.move_on(Canary { sent_at: now, delay_ms }.due_at(), delay_ms);
        }
    }

    /// A canary came back. One of a tier that the topology does not have says nothing; one that came again or was overtaken moves nothing back.
    pub fn note(&self, topology: &Topology, now: Timestamp, canary: Canary) {
        if !topology.check_tiers().contains(&canary.delay_ms) {
            return;
        }
        let (delay_ms, due_at) = (canary.delay_ms.to_string(), canary.due_at());
        metrics::counter!(names::CANARY_RETURNED_TOTAL, "delay_ms" => delay_ms.clone()).increment(1);
        metrics::histogram!(names::CANARY_DELAY_SECONDS, "delay_ms" => delay_ms).record(seconds(now.millis_since(due_at)));
        // Clocks differ: what has come back was due by now.
        self.move_on(due_at.min(now), canary.delay_ms);
    }

    /// Until when this tier is known to work; none before anything is known of it.
    #[must_use]
    pub fn until(&self, delay_ms: u64) -> Option<Timestamp> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&delay_ms).copied()
    }

    fn move_on(&self, due_at: Timestamp, delay_ms: u64) {
        let mut tiers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let until = tiers.entry(delay_ms).or_insert(due_at);
        *until = due_at.max(*until);
        let since_epoch = until.millis_since(Timestamp::from_millis(0));
        metrics::gauge!(names::CANARY_DUE_TIMESTAMP_SECONDS, "delay_ms" => delay_ms.to_string()).set(seconds(since_epoch));
    }
}

#[allow(clippy::cast_precision_loss, reason = "milliseconds since the epoch have 41 bits")]
fn seconds(millis: u64) -> f64 {
    millis as f64 / 1_000.0
}

/// Sends one canary through each check tier; how many the broker has taken.
pub async fn send(desk: &Desk) -> usize {
    let sent_at = desk.clock.now();
    let (delays, publications): (Vec<_>, Vec<_>) = desk
        .topology
        .check_tiers()
        .into_iter()
        .filter_map(|delay_ms| {
            let id = format!("canary/{}", desk.ids.uuid());
            Some((delay_ms, canaries::publication(Canary { sent_at, delay_ms }, id, &desk.topology)?))
        })
        .unzip();
    let outcomes = desk.publish(publications).await;
    let mut taken = 0;
    for (delay_ms, outcome) in delays.into_iter().zip(&outcomes) {
        if let Some(why) = refusal(outcome) {
            tracing::warn!(delay_ms, why, "a canary could not be sent: checks cannot take this way either");
            continue;
        }
        metrics::counter!(names::CANARY_SENT_TOTAL, "delay_ms" => delay_ms.to_string()).increment(1);
        taken += 1;
    }
    taken
}

/// Sends them at this interval until the soft stop, once all queues are there; at 0 never. The first comes one interval after the start, so
/// that a callback that starts again and again does not add one each time.
pub(crate) fn start(context: &Context, desk: &Desk, interval_ms: u64, queues: CancellationToken) {
    if interval_ms == 0 {
        return;
    }
    let (desk, interval) = (desk.clone(), Duration::from_millis(interval_ms));
    desk.canaries.begin(&desk.topology, desk.clock.now().plus_millis(interval_ms));
    let sending = async move {
        queues.cancelled().await;
        loop {
            tokio::time::sleep(interval).await;
            send(&desk).await;
        }
    };
    let stop = context.stop.soft_token();
    drop(context.tasks.spawn("send canaries", async move { stop.run_until_cancelled_owned(sending).await }));
}
