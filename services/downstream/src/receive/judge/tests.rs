use std::collections::BTreeMap;

use countersign_delivery::Attempt;
use countersign_testkit::build::{NOW, a_message, upstream};

use super::*;

const DAY_MS: u64 = 24 * 3_600_000;

fn rules(guard: Guard, on_unknown: OnUnknown) -> Rules {
    Rules { guard, on_unknown, max_crashes: 2, memory_ms: 7 * DAY_MS }
}

fn arrival(attempt: Attempt, republished: bool) -> Arrival {
    let message = a_message();
    Arrival {
        id: message.id,
        upstream: upstream("shop"),
        fingerprint: message.fingerprint,
        attempt,
        effect_epoch: 0,
        republished,
        sent_at: NOW,
        exchange: String::new(),
        routing_key: String::new(),
        kind: String::new(),
        content_type: String::new(),
        headers: BTreeMap::new(),
        retries: 0,
        trace: None,
        body: message.body,
    }
}

fn judged(claimed: &Claimed, rules: Rules, company: Company) -> Plan {
    judge(claimed, &arrival(Attempt::FIRST, false), rules, company, NOW)
}

/// The reason of a plan that fails.
fn reason(plan: &Plan) -> Option<FailReason> {
    if let Plan::Fail { reason, .. } = plan { Some(*reason) } else { None }
}

#[test]
fn a_start_that_never_ended_is_a_possible_duplicate_only_where_the_effect_is_not_in_the_guards_transaction() {
    let claimed = Claimed::Interrupted { starts: 2, crashes: 1 };
    for guard in Guard::ALL {
        let unknown = !guard.in_transaction();
        let rules = rules(guard, OnUnknown::Rerun);
        assert_eq!(judged(&claimed, rules, Company::Others), Plan::HandleAlone, "{guard:?}");
        let alone = judged(&claimed, rules, Company::Alone);
        assert_eq!(alone, Plan::Handle { starts: 2, crashes: 1, unknown }, "{guard:?}");
        assert_eq!(rules.lost_claim_counts(), unknown, "{guard:?}");
    }
}

#[test]
fn a_record_that_was_lost_leaves_nothing_unknown_either() {
    let claimed = Claimed::Forgotten { starts: 1 };
    for guard in Guard::ALL {
        let unknown = !guard.in_transaction();
        let run = judged(&claimed, rules(guard, OnUnknown::Rerun), Company::Others);
        assert_eq!(run, Plan::Handle { starts: 1, crashes: 0, unknown }, "{guard:?}");
        let parked = judged(&claimed, rules(guard, OnUnknown::Park), Company::Others);
        assert_eq!(reason(&parked), unknown.then_some(FailReason::OutcomeUnknown), "{guard:?}");
    }
}

#[test]
fn nobody_is_asked_about_a_start_whose_effect_is_known() {
    let claimed = Claimed::Interrupted { starts: 2, crashes: 1 };
    for guard in Guard::ALL {
        let parked = judged(&claimed, rules(guard, OnUnknown::Park), Company::Alone);
        let expected = (!guard.in_transaction()).then_some(FailReason::OutcomeUnknown);
        assert_eq!(reason(&parked), expected, "{guard:?}");
    }
}

#[test]
fn what_kills_too_often_is_poison_under_every_guard() {
    for guard in Guard::ALL {
        for (crashes, expected) in [(2, None), (3, Some(FailReason::Poison))] {
            let claimed = Claimed::Interrupted { starts: crashes + 1, crashes };
            let plan = judged(&claimed, rules(guard, OnUnknown::Rerun), Company::Alone);
            assert_eq!(reason(&plan), expected, "{guard:?} {crashes}");
        }
    }
}

#[test]
fn what_comes_again_is_stale_after_the_guards_memory_unless_that_never_ends_or_it_is_known_done() {
    let again =
        [arrival(Attempt::FIRST, true), arrival(Attempt::FIRST.resent(), false), arrival(Attempt::FIRST.redriven(), false)];
    let first = arrival(Attempt::FIRST, false);
    let fresh = Claimed::Fresh { starts: 1 };
    let of = |claimed: &Claimed, arrival: &Arrival, memory_ms, age_ms| {
        let rules = Rules { memory_ms, ..rules(Guard::Tiered, OnUnknown::Rerun) };
        reason(&judge(claimed, arrival, rules, Company::Alone, NOW.plus_millis(age_ms)))
    };
    for arrival in &again {
        assert_eq!(of(&fresh, arrival, DAY_MS, DAY_MS), None);
        assert_eq!(of(&fresh, arrival, DAY_MS, DAY_MS + 1), Some(FailReason::Stale));
        assert_eq!(of(&Claimed::Interrupted { starts: 2, crashes: 1 }, arrival, DAY_MS, DAY_MS + 1), Some(FailReason::Stale));
        assert_eq!(of(&fresh, arrival, 0, 10_000 * DAY_MS), None, "for ever");
        assert_eq!(of(&Claimed::Done, arrival, DAY_MS, DAY_MS + 1), None);
    }
    assert_eq!(of(&fresh, &first, DAY_MS, 10 * DAY_MS), None, "it was never published before");
    for arrival in again {
        let further = Arrival { effect_epoch: 1, ..arrival };
        assert_eq!(of(&fresh, &further, DAY_MS, 10 * DAY_MS), None, "an operator allowed it");
    }
}

#[test]
fn a_record_that_was_lost_does_not_park_an_effect_that_an_operator_allowed() {
    let parks = rules(Guard::Redis, OnUnknown::Park);
    let of = |effect_epoch| {
        let arrival = Arrival { effect_epoch, ..arrival(Attempt { epoch: 1, number: 1 }, true) };
        judge(&Claimed::Forgotten { starts: 1 }, &arrival, parks, Company::Others, NOW)
    };
    assert_eq!(reason(&of(0)), Some(FailReason::OutcomeUnknown));
    assert_eq!(of(1), Plan::Handle { starts: 1, crashes: 0, unknown: true });
}
