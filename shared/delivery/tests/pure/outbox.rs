//! Every status of a row against every outcome and the release.

use countersign_delivery::Timestamp;
use countersign_delivery::outbox::{Entry, Outcome, Patience, Status, next, released};

const PATIENCE: Patience = Patience { max_tries: 3, min_pause_ms: 100, max_pause_ms: 250 };
const NOW: Timestamp = Timestamp::from_millis(10_000);
const DUE: Timestamp = Timestamp::from_millis(20_000);

fn entry(status: Status, tries: u32) -> Entry {
    Entry { status, tries, due_at: DUE, reason: None }
}

fn refused() -> Outcome {
    Outcome::Refused { reason: "NO_ROUTE".into() }
}

#[test]
fn every_status_and_outcome_has_its_row() {
    let after = |status, tries, due_ms| {
        Some(Entry { status, tries, due_at: Timestamp::from_millis(due_ms), reason: Some("NO_ROUTE".into()) })
    };
    let rows = [
        (entry(Status::Sending, 2), Outcome::Confirmed, Some(entry(Status::Confirmed, 2))),
        (entry(Status::Sending, 0), refused(), after(Status::Sending, 1, 10_100)),
        (entry(Status::Sending, 1), refused(), after(Status::Sending, 2, 10_200)),
        (entry(Status::Sending, 2), refused(), after(Status::Sending, 3, 10_250)),
        (entry(Status::Sending, 3), refused(), after(Status::Failed, 4, 20_000)),
        (entry(Status::Failed, 4), Outcome::Confirmed, Some(entry(Status::Confirmed, 4))),
        (entry(Status::Failed, 4), refused(), None),
        (entry(Status::Confirmed, 0), Outcome::Confirmed, None),
        (entry(Status::Confirmed, 0), refused(), None),
    ];
    for (before, outcome, expected) in rows {
        assert_eq!(next(&before, &outcome, PATIENCE, NOW), expected, "{before:?} {outcome:?}");
    }
}

#[test]
fn only_what_has_failed_is_released_and_at_once() {
    let failed = Entry { reason: Some("NO_ROUTE".into()), ..entry(Status::Failed, 4) };
    let expected = Entry { status: Status::Sending, tries: 0, due_at: NOW, ..failed.clone() };
    assert_eq!(released(&failed, NOW), Some(expected));
    for status in [Status::Sending, Status::Confirmed] {
        assert_eq!(released(&entry(status, 1), NOW), None);
    }
}

#[test]
fn pauses_double_up_to_the_longest_however_many_there_were() {
    let pauses: Vec<_> = [1, 2, 3, 21, 22, u32::MAX].map(|tries| PATIENCE.pause_ms(tries)).into();
    assert_eq!(pauses, [100, 200, 250, 250, 250, 250]);
}

#[test]
fn a_status_is_the_number_in_its_row() {
    for status in [Status::Sending, Status::Confirmed, Status::Failed] {
        assert_eq!(Status::of(status.number()), Some(status));
    }
    assert_eq!((Status::of(-1), Status::of(3)), (None, None));
}
