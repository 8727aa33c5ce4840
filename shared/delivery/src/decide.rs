//! The verdict: what callback does about one message and one subscription whose check came due.
//!
//! By evidence, not by age. A wrong verdict may only ever cost a duplicate delivery, which the subscription's guard absorbs.

use crate::check::{Check, Mark};
use crate::id::SubscriptionName;
use crate::message::Attempt;
use crate::policy::Policy;
use crate::probe::{Lane, LaneView};
use crate::state::{Command, Delivery, ParkReason, ResendReason, Signed};
use crate::time::Timestamp;

/// What is known when the check is judged; gathered once per batch.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The delivery's row, if there is one.
    pub delivery: Option<&'a Delivery>,
    /// The probes of [`lane_of`] this delivery; none for a subscription whose consumer signs no probes.
    pub lane: Option<LaneView>,
    /// How long this check has been waiting altogether, milliseconds: the sum of the delays it went through.
    pub waited_ms: u64,
    /// How long consumers remember what they have done, milliseconds.
    pub dedup_retention_ms: u64,
    /// MSG DB's clock.
    pub now: Timestamp,
}

/// Why it is right to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitFor {
    /// A live consumer holds it.
    Processing,
    /// It is on its way back through a retry tier.
    Retrying,
    /// Probes are on their way.
    Probes,
    /// Another replica's order to resend is open.
    Order,
    /// The subscription signs no probes, and its time is not over.
    Timeout,
}

impl WaitFor {
    /// The word used in metrics and history.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Processing => "processing",
            Self::Retrying => "retrying",
            Self::Probes => "probes",
            Self::Order => "order",
            Self::Timeout => "timeout",
        }
    }
}

/// What callback decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Signed. Nothing is written.
    Verified,
    /// Somebody has dealt with it: a newer try has its own check, or a human has it.
    Stale,
    /// Check again later, carrying this mark.
    Wait {
        /// What for.
        why: WaitFor,
        /// The mark that the new check carries for this subscription.
        mark: Option<Mark>,
        /// A probe newer than this number would help.
        wants_probe_after: Option<u64>,
    },
    /// Lost: have upstream send it again as this try.
    Resend {
        /// The try to order.
        attempt: Attempt,
        /// By what evidence.
        why: ResendReason,
    },
    /// Hopeless: leave it for a human.
    Park(ParkReason),
}

/// The way a probe has to take to say something about this delivery: through the retry tier it was put into, if any.
#[must_use]
pub fn lane_of(subscription: &SubscriptionName, delivery: Option<&Delivery>) -> Lane {
    let retry_delay_ms = match delivery.map(|delivery| &delivery.signed) {
        Some(Signed::Retrying { delay_ms, .. }) => Some(*delay_ms),
        _ => None,
    };
    Lane { subscription: subscription.clone(), retry_delay_ms }
}

/// Whether a message is older than its consumers' memory of what they have done.
#[must_use]
pub const fn is_expired(sent_at: Timestamp, now: Timestamp, dedup_retention_ms: u64) -> bool {
    now.millis_since(sent_at) >= dedup_retention_ms
}

/// The try as which a delivery is parked: the latest that was known when the verdict was reached, so that an order given since is told from it.
#[must_use]
pub fn parked_as(check: &Check, delivery: Option<&Delivery>) -> Attempt {
    let genuine = delivery.filter(|delivery| delivery.facts.fingerprint == check.fingerprint);
    genuine.map_or(check.attempt, |delivery| delivery.attempt().max(check.attempt))
}

/// Judges one subscription of one due check.
///
/// Nothing is sent again that its consumers may have forgotten to have done, unless an operator has allowed a second effect.
#[must_use]
pub fn decide(check: &Check, subscription: &SubscriptionName, evidence: Evidence<'_>, policy: &Policy) -> Verdict {
    match judge(check, subscription, evidence, policy) {
        Verdict::Resend { .. } if may_be_forgotten(check, evidence) => Verdict::Park(ParkReason::Expired),
        verdict => verdict,
    }
}

fn may_be_forgotten(check: &Check, evidence: Evidence<'_>) -> bool {
    let genuine = evidence.delivery.filter(|delivery| delivery.facts.fingerprint == check.fingerprint);
    let allowed = genuine.is_some_and(|delivery| delivery.effect_epoch > 0);
    !allowed && is_expired(check.sent_at, evidence.now, evidence.dedup_retention_ms)
}

fn judge(check: &Check, subscription: &SubscriptionName, evidence: Evidence<'_>, policy: &Policy) -> Verdict {
    let Some(delivery) = evidence.delivery else {
        return judge_missing(check, subscription, None, evidence, policy);
    };
    if delivery.facts.fingerprint != check.fingerprint {
        return if delivery.is_done() {
            Verdict::Park(ParkReason::Conflict)
        } else {
            judge_missing(check, subscription, None, evidence, policy)
        };
    }
    if delivery.is_done() {
        return Verdict::Verified;
    }
    if delivery.is_put_aside() {
        return Verdict::Stale;
    }
    if let Some(ordered) = delivery.command.attempt().filter(|ordered| *ordered > check.attempt) {
        return judge_ordered(ordered, check, subscription, delivery, evidence.now);
    }
    if delivery.is_live(evidence.now) {
        return wait_while_live(delivery);
    }
    match &delivery.signed {
        Signed::Failed { attempt, reason, .. } if attempt.epoch >= check.attempt.epoch => {
            Verdict::Park(ParkReason::Failed(*reason))
        }
        _ => judge_missing(check, subscription, Some(delivery), evidence, policy),
    }
}

/// A later try than this check's was ordered: repeat the order if it is open and nobody's, else leave it to that try's own check.
fn judge_ordered(
    ordered: Attempt,
    check: &Check,
    subscription: &SubscriptionName,
    delivery: &Delivery,
    now: Timestamp,
) -> Verdict {
    match delivery.command {
        Command::Resending { lease_until, .. } if ordered == check.attempt.resent() => {
            if delivery.is_live(now) {
                wait_while_live(delivery)
            } else if lease_until <= now {
                Verdict::Resend { attempt: ordered, why: ResendReason::Repeated }
            } else {
                let mark = check.mark(subscription).cloned();
                Verdict::Wait { why: WaitFor::Order, mark, wants_probe_after: None }
            }
        }
        _ => Verdict::Stale,
    }
}

fn wait_while_live(delivery: &Delivery) -> Verdict {
    let why = match delivery.signed {
        Signed::Retrying { .. } => WaitFor::Retrying,
        _ => WaitFor::Processing,
    };
    Verdict::Wait { why, mark: None, wants_probe_after: None }
}

/// No receipt, or one whose time is over: is it lost, or only slow?
fn judge_missing(
    check: &Check,
    subscription: &SubscriptionName,
    delivery: Option<&Delivery>,
    evidence: Evidence<'_>,
    policy: &Policy,
) -> Verdict {
    let live_until = delivery.and_then(|delivery| delivery.live_until);
    let Some(lane) = evidence.lane else {
        return if evidence.waited_ms >= policy.unprobed_timeout_ms {
            lost(check, policy, ResendReason::TimedOut { waited_ms: evidence.waited_ms })
        } else {
            Verdict::Wait { why: WaitFor::Timeout, mark: None, wants_probe_after: None }
        };
    };
    let mark = match check.mark(subscription).filter(|mark| mark.live_until == live_until) {
        Some(mark) if lane.proven > mark.probe_after => return lost(check, policy, ResendReason::Lost { probe: lane.proven }),
        Some(mark) => mark.clone(),
        None => Mark { subscription: subscription.clone(), probe_after: lane.latest, live_until },
    };
    let wants_probe_after = Some(mark.probe_after);
    Verdict::Wait { why: WaitFor::Probes, mark: Some(mark), wants_probe_after }
}

fn lost(check: &Check, policy: &Policy, why: ResendReason) -> Verdict {
    if check.attempt.number > policy.max_resends {
        Verdict::Park(ParkReason::ResendsExhausted)
    } else {
        Verdict::Resend { attempt: check.attempt.resent(), why }
    }
}
