//! How late a message can be sent again.

use countersign_delivery::Topology;
use countersign_delivery::horizon::resend_horizon_ms;
use countersign_delivery::policy::Policy;

fn topology(checks: &str) -> Topology {
    let rest =
        "[[subscription]]\nname = 'inventory'\nretry_delays_ms = [100, 1000]\nbind = [{ exchange = 'countersign.messages' }]";
    Topology::from_toml(&format!("{checks}\n{rest}")).unwrap()
}

#[test]
fn it_is_the_sum_of_every_wait_times_the_attempts() {
    let topology = topology("checks = { check_delay_ms = 2000, recheck_delays_ms = [1000, 5000] }");
    let policy = Policy {
        max_resends: 3,
        resend_lease_ms: 7,
        probe_grace_ms: 20,
        probe_replace_max_ms: 30,
        overdue_ms: 5,
        ..Policy::default()
    };
    // check 2000, rechecks 1000 + 5000 + 5000, retries 100 + 1000, three calls, a lease, two probes, order, sweep.
    let attempt = 2_000 + 11_000 + 1_100 + 3 * 10 + 3 + 2 * 50 + 7 + 5;
    assert_eq!(resend_horizon_ms(&topology, &topology.subscriptions[0], &policy, 10, 3), 4 * attempt);
}

#[test]
fn the_defaults_leave_days_to_spare() {
    let topology = topology("");
    let horizon = resend_horizon_ms(&topology, &topology.subscriptions[0], &Policy::default(), 30_000, 30_000);
    assert!(horizon < 24 * 3_600_000, "{horizon}");
}
