//! What upstream counts, from the start.

use countersign_delivery::topology::Mode;
use countersign_telemetry::{at_zero, names};

use crate::refusal::Refusal;
use crate::resend;

/// The modes whose messages are stored.
const STORED: [&str; 2] = ["verified", "outbox"];
/// What operators do here, and how it ends.
const ACTS: [&str; 2] = ["release", "reveal_message"];
const RESULTS: [&str; 3] = ["done", "refused", "failed"];

/// Shows every counter at 0.
pub(crate) fn start_at_zero() {
    at_zero(names::REFUSED_TOTAL, &[("reason", &Refusal::WORDS)]);
    at_zero(names::STORED_TOTAL, &[("mode", &STORED)]);
    at_zero(names::SETTLED_TOTAL, &[("mode", &STORED)]);
    at_zero(names::RESENDS_TOTAL, &[("outcome", &resend::Outcome::WORDS)]);
    at_zero(names::INVARIANT_VIOLATIONS_TOTAL, &[("invariant", &["I1", "I7"])]);
    at_zero(names::OPERATOR_ACTS_TOTAL, &[("act", &ACTS), ("result", &RESULTS)]);
    at_zero(names::AUDIT_MISSING_TOTAL, &[("act", &ACTS)]);
    for counter in [names::RETENTION_DELETED_TOTAL, names::OUTBOX_SWEPT_TOTAL, names::OUTBOX_FAILED_TOTAL] {
        at_zero(counter, &[]);
    }
}

/// Counts rows that are committed; of mode `confirmed` there are none.
pub(crate) fn stored(modes: impl IntoIterator<Item = Mode>) {
    for mode in modes {
        metrics::counter!(names::STORED_TOTAL, "mode" => word(mode)).increment(1);
    }
}

/// Counts one message that the broker has confirmed, and its check if it has one.
pub(crate) fn settled(mode: Mode) {
    metrics::counter!(names::SETTLED_TOTAL, "mode" => word(mode)).increment(1);
}

const fn word(mode: Mode) -> &'static str {
    match mode {
        Mode::Verified => STORED[0],
        Mode::Outbox => STORED[1],
        Mode::Confirmed => "confirmed",
    }
}
