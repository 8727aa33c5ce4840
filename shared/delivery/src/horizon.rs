//! How late a message can be sent again by itself: the record of done messages must last longer.

use crate::policy::Policy;
use crate::topology::{Subscription, Topology};

/// The longest time from a message's first publish to the arrival of its last resend, milliseconds, while every service runs.
///
/// One attempt takes at most: the check delay, each recheck delay once and the last one once more (a check is re-armed just before the
/// evidence comes), the subscription's retry tiers with a call of the handler before and after each and one lease, two probes each at the
/// longest replacement interval with its grace, the lease of an order and the sweep of what is overdue. There are `max_resends` resends
/// after the first send, and then a last attempt to be judged: `(max_resends + 1) × attempt`.
///
/// An outage adds its own length; what comes even later than the retention is refused as stale.
#[must_use]
pub fn resend_horizon_ms(
    topology: &Topology,
    subscription: &Subscription,
    policy: &Policy,
    timeout_ms: u64,
    lease_ms: u64,
) -> u64 {
    let sum = |delays: &[u64]| delays.iter().fold(0_u64, |sum, delay| sum.saturating_add(*delay));
    let rechecks = &topology.checks.recheck_delays_ms;
    let calls = u64::try_from(subscription.retry_delays_ms.len()).unwrap_or(u64::MAX).saturating_add(1);
    let probes = policy.probe_replace_max_ms.saturating_add(policy.probe_grace_ms).saturating_mul(2);
    let attempt = [
        topology.checks.check_delay_ms,
        sum(rechecks),
        rechecks.last().copied().unwrap_or(0),
        sum(&subscription.retry_delays_ms),
        calls.saturating_mul(timeout_ms),
        lease_ms,
        probes,
        policy.resend_lease_ms,
        policy.overdue_ms,
    ];
    sum(&attempt).saturating_mul(u64::from(policy.max_resends).saturating_add(1))
}
