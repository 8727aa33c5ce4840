//! When a check comes again: a table of tiers, waits and what is in the way.

use countersign_delivery::recheck::Pace::{Ladder, Soon, Unreachable};
use countersign_delivery::recheck::{Recheck, UNREACHABLE_DELAY_MAX_MS, recheck};
use countersign_delivery::topology::{CheckTiers, Topology};

#[test]
fn the_way_through_the_tiers_depends_on_what_is_in_the_way() {
    let usual: &[u64] = &[15_000, 60_000, 300_000, 900_000];
    let rows = [
        (usual, 0, Soon, (15_000, 0)),
        (usual, 3, Soon, (15_000, 3)),
        (usual, 0, Ladder, (15_000, 1)),
        (usual, 3, Ladder, (900_000, 4)),
        (usual, 70, Ladder, (900_000, 71)),
        (usual, 0, Unreachable, (15_000, 1)),
        (usual, 1, Unreachable, (60_000, 2)),
        (usual, 2, Unreachable, (60_000, 2)),
        (usual, 70, Unreachable, (60_000, 70)),
        // The tier that comes next is a short one again: the table is the topology's to write.
        (&[1_000, 120_000, 2_000], 1, Unreachable, (2_000, 1)),
        (&[1_000, 120_000, 2_000], 2, Unreachable, (2_000, 3)),
        // All are longer than it may be: the shortest wait there is.
        (&[90_000, 300_000], 5, Unreachable, (90_000, 5)),
        (&[UNREACHABLE_DELAY_MAX_MS], 5, Unreachable, (UNREACHABLE_DELAY_MAX_MS, 6)),
    ];
    for (tiers, waits, pace, (delay_ms, after)) in rows {
        let checks = CheckTiers { check_delay_ms: 120_000, recheck_delays_ms: tiers.to_vec() };
        let topology = Topology { checks, ..Topology::default() };
        let expected = Recheck { delay_ms, waits: after };
        assert_eq!(recheck(&topology, waits, pace), expected, "{tiers:?} after {waits} waits, {pace:?}");
    }
}

#[test]
fn of_several_the_slowest_counts() {
    assert!(Soon < Unreachable && Unreachable < Ladder);
}
