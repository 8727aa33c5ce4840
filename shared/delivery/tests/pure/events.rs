//! Which transitions listeners are told of.

use countersign_delivery::ports::deliveries::HistoryLine;
use countersign_delivery::ports::events::{Happening, What};
use countersign_delivery::receipt::{FailReason, Outcome};
use countersign_delivery::state::{Command, Event, ParkReason, ResendReason, Signed, Transition, next};
use countersign_delivery::{Attempt, Delivery};

use crate::support::*;

/// What is told of an event that meets this row.
fn told(row: Option<&Delivery>, event: &Event<'_>) -> Option<What> {
    match next(row, event, OVERDUE_MS, NOW) {
        Ok(Transition::Moved { to, noted: true }) => {
            Happening::of(event, &to, &HistoryLine::of(event, &to, NOW)).map(|happening| happening.what)
        }
        _ => None,
    }
}

fn parked(reason: ParkReason) -> Delivery {
    delivery(Signed::Nothing, Command::Parked { attempt: Attempt::FIRST, reason }, None)
}

fn note() -> String {
    "ann".into()
}

#[test]
fn commands_are_told_but_for_orders() {
    let second = attempt(0, 2);
    let ordered = delivery(Signed::Nothing, Command::Resending { attempt: second, lease_until: NOW, unknown_answers: 0 }, None);
    let unknown = |max_answers| Event::UnknownToUpstream { attempt: second, max_answers };
    let order = Event::OrderResend {
        facts: facts(genuine()),
        attempt: second,
        lease_ms: 1,
        seen_live_until: None,
        why: ResendReason::Repeated,
    };
    let park = Event::Park { facts: facts(genuine()), attempt: Attempt::FIRST, reason: ParkReason::Gone };
    let discarded = delivery(Signed::Nothing, Command::Discarded { attempt: Attempt::FIRST, reason: ParkReason::Gone }, None);
    let aside = parked(ParkReason::Gone);
    let redrive = Event::Redrive { lease_ms: 1, allow_duplicate: false, note: note() };
    let table = [
        (None, order, None),
        (Some(&ordered), Event::ResendAnswered { attempt: second }, Some(What::Resent)),
        (Some(&ordered), unknown(2), None),
        (Some(&ordered), unknown(1), Some(What::Parked)),
        (None, park.clone(), Some(What::Parked)),
        (Some(&aside), park, None),
        (Some(&ordered), Event::ParkByOperator { note: note() }, Some(What::Parked)),
        (Some(&aside), Event::Discard { note: note() }, Some(What::Discarded)),
        (Some(&discarded), Event::Restore { note: note() }, Some(What::Restored)),
        (Some(&aside), redrive, None),
    ];
    for (number, (row, event, expected)) in table.into_iter().enumerate() {
        assert_eq!(told(row, &event), expected, "row {number}: {event:?}");
    }
}

#[test]
fn receipts_are_told_when_they_change_what_a_command_left() {
    let (first, redriven) = (Attempt::FIRST, attempt(1, 1));
    let failed = || Outcome::Failed { reason: FailReason::Rejected, detail: String::new() };
    let processing = || Outcome::Processing { lease_ms: 1 };
    let resent = delivery(Signed::Nothing, Command::Resent { attempt: attempt(0, 2) }, None);
    let fresh = delivery(Signed::Processing { attempt: first }, Command::None, None);
    let discarded = delivery(Signed::Nothing, Command::Discarded { attempt: first, reason: ParkReason::Gone }, None);
    let aside = parked(ParkReason::ResendsExhausted);
    let table = [
        (None, first, Outcome::Done, None),
        (Some(&fresh), first, Outcome::Done, None),
        (Some(&fresh), first, failed(), None),
        (Some(&resent), first, Outcome::Done, Some(What::Recovered)),
        (Some(&resent), attempt(0, 2), Outcome::Done, Some(What::Recovered)),
        (Some(&resent), attempt(0, 2), failed(), None),
        (Some(&aside), first, Outcome::Done, Some(What::Recovered)),
        (Some(&discarded), first, Outcome::Done, Some(What::Recovered)),
        (Some(&aside), first, failed(), None),
        // Redriven from the dead-letter queue.
        (Some(&aside), redriven, processing(), Some(What::Resent)),
        (Some(&aside), redriven, failed(), Some(What::Parked)),
    ];
    for (number, (row, attempt, outcome, expected)) in table.into_iter().enumerate() {
        let receipt = receipt(attempt, outcome);
        assert_eq!(told(row, &Event::Signed(&receipt)), expected, "row {number}: {receipt:?}");
    }
}

#[test]
fn words_are_read_back() {
    for what in What::ALL {
        assert_eq!(What::parse(what.as_str()), Some(what));
    }
    assert_eq!(What::parse("verified"), None);
}
