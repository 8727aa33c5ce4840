//! How late a message can be sent again by itself: the record of done messages must last longer.

use countersign_delivery::Topology;
use countersign_delivery::policy::Policy;
use countersign_delivery::topology::Subscription;

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

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_testkit::build::{a_policy, a_topology};

    #[test]
    fn it_is_the_sum_of_every_wait_times_the_attempts() {
        let topology = a_topology();
        let policy = Policy {
            max_resends: 3,
            resend_lease_ms: 7,
            probe_grace_ms: 20,
            probe_replace_max_ms: 30,
            overdue_ms: 5,
            ..a_policy()
        };
        // check 2000, rechecks 1000 + 5000 + 5000, retries 100 + 1000, three calls, a lease, two probes, order, sweep.
        let attempt = 2_000 + 11_000 + 1_100 + 3 * 10 + 3 + 2 * 50 + 7 + 5;
        assert_eq!(resend_horizon_ms(&topology, &topology.subscriptions[0], &policy, 10, 3), 4 * attempt);
    }

    #[test]
    fn the_defaults_leave_days_to_spare() {
        let horizon = resend_horizon_ms(&Topology::default(), &a_topology().subscriptions[0], &Policy::default(), 30_000, 30_000);
        assert!(horizon < 24 * 3_600_000, "{horizon}");
    }
}
