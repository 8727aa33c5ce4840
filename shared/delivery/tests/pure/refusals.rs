//! Which forbidden acts are rows of the audit.

use countersign_delivery::Timestamp;
use countersign_delivery::ports::audit::Act;
use countersign_delivery::refusals::{KEYS_MAX, ROWS_MAX, Refusals, Ruling, WINDOW_MS};

const WRITE: Ruling = Ruling::Write { unwritten: 0 };

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000).plus_millis(millis)
}

#[test]
fn a_caller_in_a_loop_has_ten_rows_a_minute_and_the_next_one_says_how_many_were_not_written() {
    let mut refusals = Refusals::default();
    for n in 0..u64::from(ROWS_MAX) {
        assert_eq!(refusals.rule("vera", Act::Pause, at(n)), WRITE, "{n}");
    }
    for n in 0..1_000 {
        assert_eq!(refusals.rule("vera", Act::Pause, at(n * 59)), Ruling::Count, "{n}");
    }
    assert_eq!(refusals.rule("vera", Act::Resume, at(1)), WRITE, "another act");
    assert_eq!(refusals.rule("otto", Act::Pause, at(1)), WRITE, "another caller");
    assert_eq!(refusals.rule("vera", Act::Pause, at(WINDOW_MS - 1)), Ruling::Count);
    let next = refusals.rule("vera", Act::Pause, at(WINDOW_MS));
    assert_eq!(next, Ruling::Write { unwritten: 1_001 });
    assert!(next.detail("operator").unwrap().contains("operator; 1001 more"), "{next:?}");
    assert_eq!(refusals.rule("vera", Act::Pause, at(WINDOW_MS + 1)), WRITE, "said once");
    assert_eq!((WRITE.detail("admin").unwrap().as_str(), Ruling::Count.detail("admin")), ("it needs the role admin", None));
}

#[test]
fn a_clock_that_is_put_back_stops_no_rows() {
    let mut refusals = Refusals::default();
    for _ in 0..=ROWS_MAX {
        refusals.rule("vera", Act::Pause, at(WINDOW_MS));
    }
    assert_eq!(refusals.rule("vera", Act::Pause, at(0)), Ruling::Write { unwritten: 1 });
}

#[test]
fn callers_without_number_are_not_remembered() {
    let mut refusals = Refusals::default();
    for n in 0..KEYS_MAX {
        assert_eq!(refusals.rule(&n.to_string(), Act::Pause, at(0)), WRITE);
    }
    assert_eq!(refusals.rule("one more", Act::Pause, at(WINDOW_MS - 1)), Ruling::Count);
    assert_eq!(refusals.rule("0", Act::Pause, at(WINDOW_MS - 1)), WRITE, "one that is known");
    assert_eq!(refusals.rule("one more", Act::Pause, at(WINDOW_MS)), WRITE, "their minute is over");
}
