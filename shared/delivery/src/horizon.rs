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

/// The longest such time over all subscriptions of the topology, milliseconds: what upstream must keep its messages for.
///
/// `timeout_ms` is the longest time of one call of any handler, `lease_ms` the longest lease of any consumer. Where no probes are signed
/// the time-out for unprobed messages stands beside the probes of each attempt.
#[must_use]
pub fn longest_resend_horizon_ms(topology: &Topology, policy: &Policy, timeout_ms: u64, lease_ms: u64) -> u64 {
    let attempts = u64::from(policy.max_resends).saturating_add(1);
    let of = |subscription: &Subscription| {
        let horizon = resend_horizon_ms(topology, subscription, policy, timeout_ms, lease_ms);
        let unprobed = if subscription.probes { 0 } else { policy.unprobed_timeout_ms.saturating_mul(attempts) };
        horizon.saturating_add(unprobed)
    };
    topology.subscriptions.iter().map(of).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_horizon_is_that_of_the_most_patient_subscription() {
        let bind = "bind = [{ exchange = 'countersign.messages' }]";
        let of = |subscriptions: &str| Topology::from_toml(subscriptions).map_err(|error| error.to_string());
        let policy = Policy { max_resends: 1, unprobed_timeout_ms: 7, ..Policy::default() };
        let longest = |topology: &Topology| longest_resend_horizon_ms(topology, &policy, 10, 20);
        let quick = of(&format!("[[subscription]]\nname = 'quick'\nretry_delays_ms = [1000]\n{bind}"));
        let both = of(&format!(
            "[[subscription]]\nname = 'quick'\nretry_delays_ms = [1000]\n{bind}\n[[subscription]]\nname = 'slow'\nretry_delays_ms = [5000]\n{bind}"
        ));
        let foreign = of(&format!("[[subscription]]\nname = 'foreign'\nprobes = false\nretry_delays_ms = [1000]\n{bind}"));
        let [quick, both, foreign] = [quick, both, foreign].map(|topology| longest(&topology.expect("a sound topology")));
        assert_eq!(both, quick + 2 * 4_000, "the slow one's tier, in both attempts");
        assert_eq!(foreign, quick + 2 * 7, "and its time-out");
    }
}
