//! Every complaint is made, and none without a reason.

use super::*;

/// A run in which everything went well.
fn good() -> Outcome {
    let struck = |fault| Struck { fault, times: 1, evidence: String::new(), book: "" };
    Outcome {
        orders: 1_000,
        seed: 7,
        accepted: 950,
        known: 50,
        shop: Counts { effects: 1_000, orders: 1_000, calls: 1_003, duplicates: 3, in_flight: 0 },
        signatures: Some(signed(1_000, 0, 80)),
        struck: Fault::ALL.map(struck).into(),
        ..Outcome::default()
    }
}

fn signed(done: u64, parked: u64, resends: u64) -> Signatures {
    Signatures { states: [("done".into(), done), ("parked".into(), parked)].into(), resent: resends, resends }
}

/// What a run without callback looks like.
fn control() -> Outcome {
    let out = [Fault::CallbackKilled, Fault::ReceiptsLost];
    let mut outcome = Outcome { signatures: None, left_out: out.map(|fault| (fault, "")).into(), ..good() };
    outcome.struck.retain(|struck| !out.contains(&struck.fault));
    (outcome.shop.orders, outcome.shop.effects) = (930, 930);
    outcome
}

#[test]
fn a_good_run_has_no_complaint() {
    assert_eq!(good().complaints(), Vec::<String>::new());
}

#[test]
fn each_thing_that_is_wrong_is_named_and_nothing_else() {
    type Spoil = fn(&mut Outcome);
    let rows: [(Spoil, &str); 11] = [
        (|outcome| outcome.timed_out = true, "--patience-s"),
        (|outcome| (outcome.accepted, outcome.refused) = (940, 10), "990 of 1000 orders were accepted, 10 refused"),
        (|outcome| (outcome.shop.orders, outcome.shop.effects) = (998, 998), "2 orders are lost"),
        (|outcome| outcome.shop.effects = 1_001, "1 orders were applied twice"),
        (|outcome| outcome.violations = 1, "1 invariants"),
        (|outcome| outcome.struck[3].times = 0, "work queue unbound: it never struck"),
        (|outcome| outcome.shop.duplicates = 0, "not called again"),
        (|outcome| (outcome.accepted, outcome.known) = (1_000, 0), "no order was asked for again"),
        (|outcome| outcome.signatures = Some(signed(999, 0, 80)), "999 of 1000 orders are signed for"),
        (|outcome| outcome.signatures = Some(signed(1_000, 1, 80)), "1 orders were left for a human"),
        (|outcome| outcome.signatures = Some(signed(1_000, 0, 0)), "nothing was sent again"),
    ];
    for (spoil, words) in rows {
        let mut outcome = good();
        spoil(&mut outcome);
        let complaints = outcome.complaints();
        assert!(complaints.len() == 1 && complaints[0].contains(words), "expected {words:?}, got {complaints:?}");
    }
}

#[test]
fn every_fault_that_did_not_strike_is_named_unless_it_was_left_out() {
    for fault in Fault::ALL {
        let mut outcome = good();
        outcome.struck.retain(|struck| struck.fault != fault);
        let complaints = outcome.complaints();
        assert!(complaints.iter().any(|complaint| complaint.starts_with(&fault.to_string())), "{fault}: {complaints:?}");
        outcome.left_out.push((fault, "on purpose"));
        assert_eq!(outcome.complaints(), Vec::<String>::new(), "{fault}");
    }
}

#[test]
fn the_control_complains_of_the_lost_orders_alone() {
    let complaints = control().complaints();
    assert!(complaints.len() == 1 && complaints[0].contains("70 orders are lost"), "{complaints:?}");
}

#[test]
fn only_what_was_not_asked_for_is_kept_for_a_look() {
    assert!(!good().is_unexpected() && !control().is_unexpected());
    assert!(Outcome { violations: 1, ..good() }.is_unexpected());
}

#[test]
fn a_control_that_lost_nothing_shows_nothing() {
    let mut outcome = control();
    (outcome.shop.orders, outcome.shop.effects) = (1_000, 1_000);
    let complaints = outcome.complaints();
    assert!(complaints.len() == 1 && complaints[0].contains("shows nothing"), "{complaints:?}");
}

#[test]
fn the_tables_say_what_was_left_out_and_who_does_not_run() {
    let outcome = control();
    assert!(outcome.faults().to_string().contains("left out"));
    assert!(outcome.books().to_string().contains("not running"));
}
