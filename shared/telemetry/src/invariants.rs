//! Invariants of the protocol that were seen violated: an error in the log, and a count that an alert watches.

use crate::names;

/// Notes a violation. `invariant` is its number in the README, such as `I5`; `what` says what was seen.
pub fn violated(invariant: &'static str, what: &str) {
    tracing::error!(invariant, what, "an invariant of the protocol does not hold: please report this");
    metrics::counter!(names::INVARIANT_VIOLATIONS_TOTAL, "invariant" => invariant).increment(1);
}
