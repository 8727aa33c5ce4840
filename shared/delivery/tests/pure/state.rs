//! `state::next`: every (word of the subscription × command) state against every event, held to the invariants; then the
//! legality of each command by hand; then operators and late receipts as tables.

mod late;
mod operators;
mod table;

use countersign_delivery::ports::deliveries::state_word;
use countersign_delivery::receipt::FailReason;
use countersign_delivery::state::{Command, Event, Illegal, ParkReason, ResendReason, Signed, Transition, next};
use countersign_delivery::{Attempt, Delivery, Outcome, Receipt, Timestamp};

use crate::support::*;
use table::*;

const ATTEMPTS: [Attempt; 4] = [attempt(0, 1), attempt(0, 2), attempt(0, 3), attempt(1, 1)];

fn signed_words() -> Vec<Signed> {
    let of = |attempt| {
        [
            Signed::Processing { attempt },
            Signed::Retrying { attempt, delay_ms: 1_000, detail: "busy".into() },
            Signed::Failed { attempt, reason: FailReason::Rejected, detail: "why".into() },
            Signed::Done { attempt },
        ]
    };
    std::iter::once(Signed::Nothing).chain(ATTEMPTS.into_iter().flat_map(of)).collect()
}

fn commands() -> Vec<Command> {
    let of = |attempt| {
        [
            Command::Resending { attempt, lease_until: at(10), unknown_answers: 0 },
            Command::Resending { attempt, lease_until: NOW, unknown_answers: 1 },
            Command::Resent { attempt },
            Command::Parked { attempt, reason: ParkReason::ResendsExhausted },
        ]
    };
    std::iter::once(Command::None).chain(ATTEMPTS.into_iter().flat_map(of)).collect()
}

fn states() -> Vec<Option<Delivery>> {
    let mut states = vec![None];
    for signed in signed_words() {
        for command in commands() {
            for live_until in [None, Some(at(-50)), Some(at(50))] {
                states.push(Some(delivery(signed.clone(), command.clone(), live_until)));
            }
        }
    }
    states
}

fn receipts() -> Vec<Receipt> {
    let outcomes = [
        Outcome::Done,
        Outcome::Failed { reason: FailReason::Poison, detail: "it crashed".into() },
        Outcome::Failed { reason: FailReason::Conflict, detail: String::new() },
        Outcome::Retrying { delay_ms: 20, detail: "busy".into() },
        Outcome::Retrying { delay_ms: 2_000, detail: "busy".into() },
        Outcome::Processing { lease_ms: 20 },
        Outcome::Processing { lease_ms: 2_000 },
    ];
    let pairs = ATTEMPTS.into_iter().flat_map(|attempt| outcomes.clone().map(|outcome| receipt(attempt, outcome)));
    let genuine: Vec<_> = pairs.collect();
    let impostors = genuine.iter().cloned().map(|receipt| Receipt { fingerprint: impostor(), ..receipt });
    impostors.chain(genuine.clone()).collect()
}

fn events(receipts: &[Receipt]) -> Vec<Event<'_>> {
    let mut events: Vec<Event<'_>> = receipts.iter().map(Event::Signed).collect();
    for attempt in ATTEMPTS {
        for facts in [facts(genuine()), facts(impostor())] {
            for seen_live_until in [None, Some(at(-50)), Some(at(50))] {
                events.push(Event::OrderResend {
                    facts: facts.clone(),
                    attempt,
                    lease_ms: 30,
                    seen_live_until,
                    why: ResendReason::Repeated,
                });
            }
            events.push(Event::Park { facts, attempt, reason: ParkReason::Gone });
        }
        events.push(Event::ResendAnswered { attempt });
        events.push(Event::UnknownToUpstream { attempt, max_answers: 2 });
    }
    events.extend([Event::Redrive { lease_ms: 30, allow_duplicate: false, note: String::new() }, Event::Swept]);
    events
}

/// Whether an event speaks of another message than the row does.
fn is_of_another(row: &Delivery, event: &Event<'_>) -> bool {
    match event {
        Event::Signed(receipt) => receipt.fingerprint != row.facts.fingerprint || receipt.is_conflict(),
        Event::OrderResend { facts, .. } | Event::Park { facts, .. } => facts.fingerprint != row.facts.fingerprint,
        _ => false,
    }
}

fn each_row(mut assert: impl FnMut(Option<&Delivery>, &Event<'_>, &Result<Transition, Illegal>)) {
    let receipts = receipts();
    let events = events(&receipts);
    let states = states();
    assert_eq!((states.len(), events.len()), (1 + 17 * 17 * 3, 56 + 4 * 10 + 2), "every pair is in the table");
    for state in &states {
        for event in &events {
            assert(state.as_ref(), event, &next(state.as_ref(), event, OVERDUE_MS, NOW));
        }
    }
}

fn moved(answer: &Result<Transition, Illegal>) -> Option<(&Delivery, bool)> {
    match answer {
        Ok(Transition::Moved { to, noted }) => Some((to, *noted)),
        _ => None,
    }
}

#[test]
fn no_transition_goes_back_and_what_would_go_back_is_named() {
    each_row(|state, event, answer| {
        if let (Some(row), Some((to, _))) = (state, moved(answer)) {
            assert_eq!(row.goes_back_in(to), None, "{row:?} {event:?} {to:?}");
        }
    });
    let mut named = std::collections::BTreeSet::new();
    for from in states().iter().flatten() {
        named.extend(states().iter().flatten().filter_map(|to| from.goes_back_in(to)));
    }
    assert_eq!(named.len(), 3, "{named:?}");
}

#[test]
fn done_absorbs_everything_of_its_message() {
    each_row(|state, event, answer| {
        let Some(row) = state.filter(|row| row.is_done() && !is_of_another(row, event)) else { return };
        let expected = match event {
            Event::Signed(_) => Ok(Transition::Unchanged),
            Event::Swept if row.due_at.is_none() => Ok(Transition::Unchanged),
            _ => Err(Illegal::AlreadyDone),
        };
        assert_eq!(*answer, expected, "{row:?} {event:?}");
    });
}

#[test]
fn a_done_of_the_same_fingerprint_is_always_recorded() {
    each_row(|state, event, answer| {
        let Event::Signed(receipt) = event else { return };
        if receipt.outcome != Outcome::Done || state.is_some_and(|row| row.is_done() || is_of_another(row, event)) {
            return;
        }
        let (to, noted) = moved(answer).expect("recorded");
        assert_eq!((&to.signed, to.due_at), (&Signed::Done { attempt: receipt.attempt }, None));
        assert_eq!(noted, state.is_some_and(|row| row.command != Command::None), "resolving a command is history");
    });
}

#[test]
fn states_only_move_forward() {
    each_row(|state, event, answer| {
        let (Some(row), Some((to, _))) = (state, moved(answer)) else { return };
        if is_of_another(row, event) {
            return;
        }
        assert!(to.command.attempt() >= row.command.attempt(), "{row:?} {event:?} {to:?}");
        assert!(to.is_done() || to.signed.attempt() >= row.signed.attempt(), "{row:?} {event:?} {to:?}");
        assert!(to.live_until >= row.live_until, "live_until only grows: {row:?} {event:?} {to:?}");
        assert_eq!(to.facts, row.facts, "{event:?}");
        let back_to_sending = matches!(
            (&row.command, &to.command),
            (Command::Resent { attempt: from }, Command::Resending { attempt: to, .. }) if from >= to
        );
        assert!(!back_to_sending, "{row:?} {event:?} {to:?}");
    });
}

/// Whether a receipt speaks of a later epoch than the one that was parked.
fn tells_of_a_redrive(row: &Delivery, receipt: &Receipt) -> bool {
    matches!(row.command, Command::Parked { attempt, .. } if attempt.epoch < receipt.attempt.epoch)
}

#[test]
fn receipts_touch_no_command_but_a_parked_one_of_an_earlier_epoch_and_commands_touch_no_word() {
    each_row(|state, event, answer| {
        let (Some(row), Some((to, _))) = (state, moved(answer)) else { return };
        if is_of_another(row, event) {
            return;
        }
        match event {
            Event::Signed(receipt) if tells_of_a_redrive(row, receipt) => {}
            Event::Signed(_) => assert_eq!(to.command, row.command),
            _ => assert_eq!((&to.signed, to.live_until), (&row.signed, row.live_until)),
        }
    });
}

#[test]
fn what_downstream_redrove_is_under_way_again_or_parked_for_what_it_failed_of_this_time() {
    each_row(|state, event, answer| {
        let (Some(row), Event::Signed(receipt)) = (state, event) else { return };
        if !tells_of_a_redrive(row, receipt) || is_of_another(row, event) {
            return;
        }
        let Some((to, noted)) = moved(answer) else { return };
        let expected = match &receipt.outcome {
            Outcome::Done => row.command.clone(),
            Outcome::Failed { reason, .. } => Command::Parked { attempt: receipt.attempt, reason: ParkReason::Failed(*reason) },
            Outcome::Retrying { .. } | Outcome::Processing { .. } => Command::Resent { attempt: receipt.attempt },
        };
        assert_eq!((&to.command, noted), (&expected, true), "{row:?} {receipt:?}");
        if !to.is_done() {
            let next_epoch = moved(&next(
                Some(to),
                &Event::Redrive { lease_ms: 30, allow_duplicate: false, note: String::new() },
                OVERDUE_MS,
                NOW,
            ))
            .map(|(to, _)| to.attempt());
            assert_eq!(next_epoch, Some(receipt.attempt.redriven()), "callback's own redrive comes after it");
            assert_eq!(to.attempt_to_check(), receipt.attempt, "the sweep looks after this try");
        }
    });
}

#[test]
fn an_older_epochs_or_attempts_word_changes_nothing_unless_it_is_done() {
    each_row(|state, event, answer| {
        let (Some(row), Event::Signed(receipt)) = (state, event) else { return };
        let old = receipt.attempt.epoch < row.attempt().epoch || Some(receipt.attempt) < row.signed.attempt();
        if old && receipt.outcome != Outcome::Done {
            assert_eq!(*answer, Ok(Transition::Unchanged), "{row:?} {receipt:?}");
        }
    });
}

#[test]
fn failed_is_not_overwritten_by_a_word_of_its_attempt() {
    each_row(|state, event, answer| {
        let (Some(row), Event::Signed(receipt)) = (state, event) else { return };
        let same_attempt = matches!(&row.signed, Signed::Failed { attempt, .. } if *attempt == receipt.attempt);
        if same_attempt && receipt.outcome != Outcome::Done {
            assert_eq!(*answer, Ok(Transition::Unchanged), "{row:?} {receipt:?}");
        }
    });
}

#[test]
fn an_impostors_receipt_never_changes_the_genuine_row() {
    each_row(|state, event, answer| {
        let Event::Signed(receipt) = event else { return };
        if state.is_some_and(|row| is_of_another(row, event)) || receipt.is_conflict() {
            assert_eq!(*answer, Ok(Transition::Unchanged), "{state:?} {receipt:?}");
        }
    });
}

#[test]
fn a_receipt_is_never_illegal_and_live_words_are_believed_for_their_time() {
    each_row(|state, event, answer| {
        let Event::Signed(receipt) = event else { return };
        assert!(answer.is_ok(), "{state:?} {receipt:?}");
        let Some((to, _)) = moved(answer) else { return };
        let until = match receipt.outcome {
            Outcome::Processing { lease_ms } => NOW.plus_millis(lease_ms),
            Outcome::Retrying { delay_ms, .. } => NOW.plus_millis(delay_ms),
            _ => return,
        };
        assert!(to.live_until >= Some(until) && to.is_live(NOW), "{to:?}");
        assert!(to.due_at.is_none_or(|due| Some(due) > to.live_until), "nobody is overdue while it is believed: {to:?}");
    });
}

#[test]
fn a_late_processing_does_not_take_a_message_out_of_its_retry_tier() {
    let first = attempt(0, 1);
    let put_back =
        delivery(Signed::Retrying { attempt: first, delay_ms: 500, detail: "busy".into() }, Command::None, Some(at(500)));
    let late = receipt(first, Outcome::Processing { lease_ms: 400 });
    assert_eq!(next(Some(&put_back), &Event::Signed(&late), OVERDUE_MS, NOW), Ok(Transition::Unchanged));
    let newer = receipt(first, Outcome::Processing { lease_ms: 501 });
    let answer = next(Some(&put_back), &Event::Signed(&newer), OVERDUE_MS, NOW);
    assert_eq!(moved(&answer).map(|(to, _)| &to.signed), Some(&Signed::Processing { attempt: first }));
}

#[test]
fn whatever_is_not_settled_will_be_looked_at_again() {
    each_row(|_, _, answer| {
        let Some((to, _)) = moved(answer) else { return };
        let settled = to.is_done() || matches!(to.command, Command::Parked { .. });
        assert_eq!(to.due_at.is_none(), settled, "{to:?}");
        assert!(to.due_at.is_none_or(|due| due >= NOW.plus_millis(OVERDUE_MS)), "{to:?}");
    });
}

#[test]
fn every_command_that_moves_is_noted() {
    each_row(|_, event, answer| {
        let Some((_, noted)) = moved(answer) else { return };
        if !matches!(event, Event::Signed(_)) {
            assert_eq!(noted, !matches!(event, Event::Swept), "{event:?}");
        }
    });
}

#[test]
fn only_an_order_of_a_later_try_or_a_free_repeat_is_taken() {
    each_row(|state, event, answer| {
        let Event::OrderResend { facts, attempt, seen_live_until, .. } = event else { return };
        let row = state.filter(|row| row.facts.fingerprint == facts.fingerprint);
        let expected = match row.map(|row| (&row.signed, &row.command)) {
            Some((Signed::Done { .. }, _)) => Err(Illegal::AlreadyDone),
            Some((_, Command::Parked { .. })) => Err(Illegal::Parked),
            Some((_, Command::Resent { attempt: held })) if attempt <= held => Err(Illegal::OutOfDate),
            Some((_, Command::Resending { attempt: held, .. })) if attempt < held => Err(Illegal::OutOfDate),
            Some((_, Command::Resending { attempt: held, lease_until, .. })) if attempt == held && *lease_until > NOW => {
                Err(Illegal::OutOfDate)
            }
            _ if row.and_then(|row| row.live_until) != *seen_live_until => Err(Illegal::SpokenSince),
            _ => Ok(()),
        };
        assert_eq!(answer.as_ref().map(|_| ()).map_err(|why| *why), expected, "{row:?} {event:?}");
        let Some((to, _)) = moved(answer) else { return };
        let Command::Resending { attempt: ordered, lease_until, unknown_answers } = &to.command else { panic!("{to:?}") };
        assert_eq!((ordered, *lease_until), (attempt, NOW.plus_millis(30)));
        let repeated = match row.map(|row| &row.command) {
            Some(Command::Resending { attempt: held, unknown_answers, .. }) if held == attempt => *unknown_answers,
            _ => 0,
        };
        assert_eq!(*unknown_answers, repeated, "a repeat of the order forgets no answer");
    });
}

#[test]
fn an_answer_is_taken_by_its_own_open_order_only() {
    each_row(|state, event, answer| {
        let (Event::ResendAnswered { attempt } | Event::UnknownToUpstream { attempt, .. }) = event else { return };
        let expected = match state.map(|row| (row.is_done(), &row.command)) {
            None => Err(Illegal::Absent),
            Some((true, _)) => Err(Illegal::AlreadyDone),
            Some((_, Command::Resending { attempt: held, .. })) if held == attempt => Ok(()),
            Some(_) => Err(Illegal::OutOfDate),
        };
        assert_eq!(answer.as_ref().map(|_| ()).map_err(|why| *why), expected, "{state:?} {event:?}");
        let Some((to, _)) = moved(answer) else { return };
        match (event, state.map(|row| &row.command), &to.command) {
            (Event::ResendAnswered { .. }, _, command) => assert_eq!(*command, Command::Resent { attempt: *attempt }),
            (_, Some(Command::Resending { unknown_answers: 0, .. }), command) => {
                let waiting = Command::Resending { attempt: *attempt, lease_until: NOW, unknown_answers: 1 };
                assert_eq!(*command, waiting, "the first such answer parks nothing, and frees the order");
            }
            (_, _, command) => assert_eq!(*command, Command::Parked { attempt: *attempt, reason: ParkReason::UnknownId }),
        }
    });
}

#[test]
fn parking_and_redriving_are_refused_once_done() {
    each_row(|state, event, answer| {
        let expected = match (event, state) {
            (Event::Park { facts, attempt, .. }, row) => match row.filter(|row| row.facts.fingerprint == facts.fingerprint) {
                Some(row) if row.is_done() => Err(Illegal::AlreadyDone),
                Some(Delivery { command: Command::Parked { .. }, .. }) => Err(Illegal::Parked),
                Some(row) if row.command.attempt() > Some(*attempt) => Err(Illegal::OutOfDate),
                _ => Ok(()),
            },
            (Event::Redrive { .. }, None) => Err(Illegal::Absent),
            (Event::Redrive { .. }, Some(row)) if row.is_done() => Err(Illegal::AlreadyDone),
            (Event::Redrive { .. }, Some(_)) => Ok(()),
            _ => return,
        };
        assert_eq!(answer.as_ref().map(|_| ()).map_err(|why| *why), expected, "{state:?} {event:?}");
        if let (Event::Redrive { .. }, Some((to, _)), Some(row)) = (event, moved(answer), state) {
            assert_eq!(to.command.attempt(), Some(Attempt { epoch: row.attempt().epoch + 1, number: 1 }));
        }
    });
}

#[test]
fn applying_the_same_receipt_again_says_nothing_new() {
    each_row(|_, event, answer| {
        let (Event::Signed(_), Some((to, _))) = (event, moved(answer)) else { return };
        assert_eq!(next(Some(to), event, OVERDUE_MS, NOW), Ok(Transition::Unchanged), "{to:?} {event:?}");
    });
}

#[test]
fn k_resends_at_most_and_a_repeated_order_spends_none() {
    let apply = |row: Option<&Delivery>, event: &Event<'_>, now: Timestamp| match next(row, event, OVERDUE_MS, now) {
        Ok(Transition::Moved { to, .. }) => Ok(Some(*to)),
        Ok(Transition::Unchanged) => Ok(row.cloned()),
        Err(why) => Err(why),
    };
    let order = |attempt| Event::OrderResend {
        facts: facts(genuine()),
        attempt,
        lease_ms: 30,
        seen_live_until: None,
        why: ResendReason::Repeated,
    };
    let second = attempt(0, 2);
    let mut row = apply(None, &order(second), NOW).unwrap();
    for crash in 1..=5 {
        let now = at(30 * crash);
        assert_eq!(apply(row.as_ref(), &order(second), at(30 * crash - 1)), Err(Illegal::OutOfDate), "it is another's");
        row = apply(row.as_ref(), &order(second), now).unwrap();
        assert_eq!(row.as_ref().unwrap().attempt_to_check(), attempt(0, 1), "a swept check repeats this order");
        assert_eq!(row.as_ref().unwrap().attempt(), second);
    }
    row = apply(row.as_ref(), &Event::ResendAnswered { attempt: second }, at(200)).unwrap();
    assert_eq!(row.as_ref().unwrap().attempt_to_check(), second);
    assert_eq!(apply(row.as_ref(), &order(second), at(900)), Err(Illegal::OutOfDate));
}

#[test]
fn the_word_of_a_failure_is_outdone_by_the_order_of_a_later_try_only() {
    let failed = |attempt| Signed::Failed { attempt, reason: FailReason::Poison, detail: String::new() };
    let resending = |attempt| Command::Resending { attempt, lease_until: NOW, unknown_answers: 0 };
    let resent = |attempt| Command::Resent { attempt };
    let parked = |attempt| Command::Parked { attempt, reason: ParkReason::Failed(FailReason::Poison) };
    let rows = [
        (attempt(0, 1), Command::None, "failed"),
        (attempt(0, 1), resending(attempt(0, 2)), "resending"),
        (attempt(0, 1), resent(attempt(0, 2)), "resent"),
        (attempt(0, 3), resending(attempt(1, 1)), "resending"),
        (attempt(0, 3), resent(attempt(1, 1)), "resent"),
        (attempt(1, 1), resending(attempt(1, 1)), "failed"),
        (attempt(1, 1), resent(attempt(1, 1)), "failed"),
        (attempt(1, 1), resent(attempt(0, 3)), "failed"),
        (attempt(0, 1), parked(attempt(0, 2)), "parked"),
    ];
    for (failed_at, command, expected) in rows {
        let row = delivery(failed(failed_at), command, None);
        assert_eq!(state_word(&row), expected, "{row:?}");
    }
}

#[test]
fn the_first_receipt_fixes_the_facts() {
    let first = receipt(attempt(0, 1), Outcome::Processing { lease_ms: 10 });
    let Ok(Transition::Moved { to, .. }) = next(None, &Event::Signed(&first), OVERDUE_MS, NOW) else { panic!("recorded") };
    let wrong = Receipt { sent_at: at(7), outcome: Outcome::Done, ..first.clone() };
    let Ok(Transition::Moved { to: done, .. }) = next(Some(&to), &Event::Signed(&wrong), OVERDUE_MS, NOW) else {
        panic!("recorded")
    };
    assert_eq!(done.facts.sent_at, first.sent_at);
}
