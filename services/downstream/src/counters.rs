//! What downstream counts, from the start.

use countersign_delivery::{FailReason, SubscriptionName};
use countersign_telemetry::{at_zero, names};

use crate::desk;
use crate::receive::Outcome;

/// What operators do here, and how it ends.
const ACTS: [&str; 2] = ["pause", "resume"];
const RESULTS: [&str; 3] = ["done", "refused", "failed"];

/// Shows every counter at 0, for each of these subscriptions.
pub(crate) fn start_at_zero<'a>(subscriptions: impl Iterator<Item = &'a SubscriptionName>) {
    let own = [
        Outcome::Done,
        Outcome::DoneBefore,
        Outcome::Retrying,
        Outcome::PutBack,
        Outcome::Suspect,
        Outcome::ClaimsAway,
        Outcome::GivenUp,
    ];
    let failed = FailReason::ALL.map(Outcome::Failed);
    let outcomes: Vec<&str> = own.into_iter().chain(failed).map(Outcome::word).collect();
    for name in subscriptions {
        let of = [name.as_str()];
        at_zero(names::CONSUME_TOTAL, &[("subscription", &of), ("outcome", &outcomes)]);
        for counter in [names::POSSIBLE_DUPLICATES_TOTAL, names::INBOX_RECOGNISED_TOTAL, names::INBOX_FORGOTTEN_TOTAL] {
            at_zero(counter, &[("subscription", &of)]);
        }
    }
    at_zero(names::DEDUP_TOTAL, &[("result", &desk::RESULTS)]);
    at_zero(names::OPERATOR_ACTS_TOTAL, &[("act", &ACTS), ("result", &RESULTS)]);
    at_zero(names::AUDIT_MISSING_TOTAL, &[("act", &ACTS)]);
}
