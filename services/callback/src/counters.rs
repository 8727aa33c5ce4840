//! What callback counts, from the start; and what it shows of MSG DB.

use std::collections::BTreeMap;
use std::time::Duration;

use countersign_delivery::ports::audit::Act;
use countersign_delivery::ports::deliveries::Counts;
use countersign_delivery::ports::reconciliation::KnownUpstream;
use countersign_delivery::state::ParkReason;
use countersign_delivery::{Timestamp, Topology};
use countersign_telemetry::{at_zero, names};

use crate::check;

/// How receipts are recorded.
const RECEIPTS: [&str; 5] = ["done", "failed", "retrying", "processing", "conflict"];
/// What upstream answers to an order, and why it does not.
const ORDERS: [&str; 10] = [
    "resent",
    "not_confirmed",
    "unknown_id",
    "changed",
    "gone",
    "call_failed",
    "under_way",
    "breaker_open",
    "busy",
    "rate_limited",
];
const PROBES: [&str; 4] = ["sent", "signed", "replaced", "not_published"];
const EVENTS: [&str; 5] = ["published", "unheard", "refused", "unknown", "dropped"];
const CERTIFICATES: [&str; 5] = ["certified", "expired", "skipped", "differs", "unreachable"];
/// Acts that the audit does not name one by one: each letter of an order, and reconciliation.
const FURTHER_ACTS: [&str; 3] = ["redrive_dead_letter", "discard_dead_letter", "reconcile"];
const RESULTS: [&str; 5] = ["done", "already_done", "not_confirmed", "refused", "failed"];
/// States of deliveries that are not done.
const STATES: [&str; 7] = ["processing", "retrying", "failed", "resending", "resent", "parked", "discarded"];

/// Shows every counter at 0.
pub(crate) fn start_at_zero(topology: &Topology) {
    // Of the quarantine the subscription is empty.
    let letters: Vec<&str> = topology.subscriptions.iter().map(|one| one.name.as_str()).chain([""]).collect();
    let reasons: Vec<ParkReason> = ParkReason::all().collect();
    let reasons: Vec<&str> = reasons.iter().map(ParkReason::as_str).collect();
    let acts: Vec<&str> = Act::OF_CALLBACK.into_iter().map(Act::as_str).chain(FURTHER_ACTS).collect();
    at_zero(names::RECEIPTS_TOTAL, &[("outcome", &RECEIPTS)]);
    at_zero(names::CHECKS_TOTAL, &[("verdict", &check::WORDS)]);
    at_zero(names::RESEND_ORDERS_TOTAL, &[("outcome", &ORDERS)]);
    at_zero(names::PROBES_TOTAL, &[("outcome", &PROBES)]);
    at_zero(names::PARKED_TOTAL, &[("reason", &reasons)]);
    at_zero(names::DEAD_LETTERS_TOTAL, &[("subscription", &letters)]);
    at_zero(names::EVENTS_TOTAL, &[("outcome", &EVENTS)]);
    at_zero(names::MSG_DB_DELETED_TOTAL, &[("what", &["deliveries", "dead_letters"])]);
    at_zero(names::RECONCILIATIONS_TOTAL, &[("state", &CERTIFICATES)]);
    at_zero(names::INVARIANT_VIOLATIONS_TOTAL, &[("invariant", &["I1", "I4", "I5", "I8"])]);
    at_zero(names::OPERATOR_ACTS_TOTAL, &[("act", &acts), ("result", &RESULTS)]);
    at_zero(names::AUDIT_MISSING_TOTAL, &[("act", &Act::OF_CALLBACK.map(Act::as_str))]);
    for counter in [names::SWEPT_TOTAL, names::LATE_RECEIPTS_TOTAL, names::RECONCILE_MISSING_TOTAL] {
        at_zero(counter, &[]);
    }
}

/// Shows how many deliveries stand where, `now` by MSG DB's clock.
pub(crate) fn show(counts: &Counts, now: Timestamp) {
    let figure = |of: &BTreeMap<String, u64>, word: &str| of.get(word).copied().unwrap_or_default();
    #[allow(clippy::cast_precision_loss, reason = "gauges; far below 2^52")]
    for state in STATES {
        metrics::gauge!(names::DELIVERIES, "state" => state).set(figure(&counts.states, state) as f64);
    }
    #[allow(clippy::cast_precision_loss, reason = "gauges; far below 2^52")]
    for reason in ParkReason::all() {
        metrics::gauge!(names::PARKED_MESSAGES, "reason" => reason.as_str()).set(figure(&counts.parked, reason.as_str()) as f64);
    }
    metrics::gauge!(names::OLDEST_UNSIGNED_AGE_SECONDS).set(counts.oldest_unsigned.map_or(0.0, |sent_at| age(now, sent_at)));
}

/// Shows how long ago it is until when each upstream is certified; one that never was is not shown.
pub(crate) fn show_certified(known: &[KnownUpstream], now: Timestamp) {
    for KnownUpstream { upstream, certified_until, .. } in known {
        if let Some(until) = certified_until {
            metrics::gauge!(names::RECONCILE_CERTIFIED_AGE_SECONDS, "upstream" => upstream.to_string()).set(age(now, *until));
        }
    }
}

fn age(now: Timestamp, since: Timestamp) -> f64 {
    Duration::from_millis(now.millis_since(since)).as_secs_f64()
}
