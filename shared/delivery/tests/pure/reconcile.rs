use countersign_delivery::digest::Digest;
use countersign_delivery::message::Attempt;
use countersign_delivery::reconcile::{
    Certificate, Limit, Line, MINUTE_MS, MISSING_IDS_MAX, Standing, State, Sums, Window, differing, minute_of, narrow, standing,
};
use countersign_delivery::state::{Command, ParkReason, Signed};
use countersign_delivery::{Delivery, FailReason, MessageId, SubscriptionName, Timestamp};
use proptest::prelude::*;

use crate::support::{at, attempt, delivery, genuine, id, impostor, subscription};

const FIRST: Attempt = attempt(0, 1);

fn minute(number: i64) -> Timestamp {
    Timestamp::from_millis(number * MINUTE_MS.cast_signed())
}

fn minutes(since: i64, until: i64) -> Window {
    Window { since: minute(since), until: minute(until) }
}

#[test]
fn every_state_of_a_row_has_its_standing() {
    let (attempt, reason) = (FIRST, ParkReason::ResendsExhausted);
    let parked = Command::Parked { attempt, reason: reason.clone() };
    let discarded = Command::Discarded { attempt, reason };
    let done = Signed::Done { attempt };
    let failed = Signed::Failed { attempt, reason: FailReason::Rejected, detail: String::new() };
    let resending = Command::Resending { attempt, lease_until: at(9), unknown_answers: 0 };
    let mut thrown_away = delivery(Signed::Nothing, discarded, None);
    thrown_away.due_at = None;
    let rows = [
        (delivery(done.clone(), Command::None, None), Standing::Verified),
        (delivery(done, parked.clone(), None), Standing::Verified),
        (delivery(Signed::Nothing, parked.clone(), None), Standing::Parked),
        (delivery(failed.clone(), parked, None), Standing::Parked),
        (thrown_away, Standing::Discarded),
        (delivery(failed, Command::None, None), Standing::InFlight),
        (delivery(Signed::Processing { attempt }, Command::None, Some(at(5))), Standing::InFlight),
        (
            delivery(Signed::Retrying { attempt, delay_ms: 1, detail: String::new() }, Command::None, Some(at(5))),
            Standing::InFlight,
        ),
        (delivery(Signed::Nothing, resending, None), Standing::InFlight),
        (delivery(Signed::Nothing, Command::Resent { attempt }, None), Standing::InFlight),
    ];
    for (row, expected) in rows {
        assert_eq!(standing(Some(&row), &genuine()), expected, "{row:?}");
        assert_eq!(standing(Some(&row), &impostor()), Standing::Missing, "of another message: {row:?}");
        let unwatched = Delivery { due_at: None, ..row };
        let expected = if expected == Standing::InFlight { Standing::Missing } else { expected };
        assert_eq!(standing(Some(&unwatched), &genuine()), expected, "nobody comes back to it: {unwatched:?}");
    }
    assert_eq!(standing(None, &genuine()), Standing::Missing);
}

#[test]
fn only_minutes_that_upstream_has_and_that_differ_are_compared() {
    let of = |ids: &[u128]| {
        let mut digest = Digest::default();
        for n in ids {
            let id = MessageId::from_bytes(&(id().uuid().as_u128() + n).to_be_bytes()).unwrap();
            digest.add(id, &genuine());
        }
        digest
    };
    let sums = |entries: &[(i64, &[u128])]| -> Sums {
        let minutes = entries.iter().map(|(at, ids)| (minute(*at), of(ids))).collect();
        [(subscription(), minutes)].into()
    };
    let stored = sums(&[(1, &[1, 2]), (2, &[3]), (3, &[4, 5]), (4, &[6])]);
    // The order does not matter; a message more, another one, and none at all do; a minute that is only here does not.
    let signed = sums(&[(1, &[2, 1]), (2, &[3, 7]), (3, &[4, 8]), (9, &[9])]);
    let found = differing(&stored, &signed);
    assert_eq!(found, [(subscription(), vec![minute(2), minute(3), minute(4)])].into());
    assert!(differing(&stored, &stored).is_empty());
    assert_eq!(differing(&stored, &Sums::new())[&subscription()].len(), 4);
    assert!(differing(&Sums::new(), &stored).is_empty());
}

/// What it must not begin before, what it must not end after, what is left of it, and why.
type Row<'a> = (&'a [Limit], &'a [Limit], Window, &'a [&'a str]);

#[test]
fn a_window_is_cut_to_whole_minutes_within_every_limit() {
    let limit = |millis: i64, why| Limit { at: Timestamp::from_millis(millis), why };
    let (kept, forgotten, settled) = ("kept", "forgotten", "settled");
    let rows: [Row<'_>; 7] = [
        (&[], &[], minutes(10, 20), &[]),
        (&[limit(600_000, kept)], &[limit(1_200_000, settled)], minutes(10, 20), &[]),
        (&[limit(600_001, kept)], &[limit(1_199_999, settled)], minutes(11, 19), &[kept, settled]),
        (&[limit(720_000, kept), limit(780_000, forgotten)], &[], minutes(13, 20), &[forgotten]),
        (&[limit(-5, kept)], &[limit(9_000_000, settled)], minutes(10, 20), &[]),
        (&[], &[limit(60_000, settled)], minutes(10, 10), &[settled]),
        (&[limit(9_000_000, kept)], &[], minutes(150, 150), &[kept]),
    ];
    for (from, until, window, why) in rows {
        let narrowed = narrow(minutes(10, 20), from, until);
        assert_eq!((narrowed.window, narrowed.why.as_slice()), (window, why), "{from:?} {until:?}");
    }
}

#[test]
fn minutes_begin_where_they_should_before_1970_as_well() {
    for (millis, begins) in [(0, 0), (59_999, 0), (60_000, 60_000), (-1, -60_000), (-60_000, -60_000)] {
        assert_eq!(minute_of(Timestamp::from_millis(millis)), Timestamp::from_millis(begins), "{millis}");
    }
}

#[test]
fn neighbours_are_listed_as_one_window_up_to_its_bound() {
    let at = [1, 2, 3, 5, 6, 9].map(minute);
    assert_eq!(Window::joined(&at, 2 * MINUTE_MS), [minutes(1, 3), minutes(3, 4), minutes(5, 7), minutes(9, 10)]);
    assert_eq!(Window::joined(&at, u64::MAX), [minutes(1, 4), minutes(5, 7), minutes(9, 10)]);
    assert_eq!(Window::joined(&[], MINUTE_MS), []);
}

#[test]
fn a_window_is_halved_down_to_its_first_minute() {
    for (length, halved) in [(0, None), (1, None), (2, Some(1)), (3, Some(1)), (7, Some(3)), (60, Some(30))] {
        assert_eq!(minutes(5, 5 + length).halved(), halved.map(|half| minutes(5, 5 + half)), "{length} minutes");
    }
}

proptest! {
    #[test]
    fn slices_cover_a_window_once(since in -50_i64..50, length in 0_i64..200, step in 0_u64..90) {
        let window = minutes(since, since + length);
        let slices: Vec<Window> = window.slices(step * MINUTE_MS).collect();
        let mut reached = window.since;
        for slice in slices {
            prop_assert_eq!(slice.since, reached);
            prop_assert!(!slice.is_empty() && slice.until.millis_since(slice.since) <= step.max(1) * MINUTE_MS);
            reached = slice.until;
        }
        prop_assert_eq!(reached, window.until);
    }
}

fn line(tell: impl FnOnce(&mut Line)) -> Line {
    let mut line = Line::new(subscription());
    tell(&mut line);
    assert!(line.adds_up(), "{line:?}");
    line
}

fn all_of(line: &mut Line, at: i64, standings: &[Standing]) {
    for standing in standings {
        line.count(minute(at), id(), *standing);
    }
}

#[test]
fn the_worst_line_says_how_a_certificate_stands_and_the_first_open_minute_until_when() {
    let accounted = [Standing::Verified, Standing::InFlight, Standing::Parked, Standing::Discarded];
    let fine = || line(|line| line.agree(3));
    let accounted = || line(|line| all_of(line, 12, &accounted));
    let skipped = || line(|line| line.skip(minute(13), 4));
    let missing = || line(|line| all_of(line, 14, &[Standing::Missing, Standing::Verified]));
    let both = || {
        line(|line| {
            line.skip(minute(17), 4);
            all_of(line, 18, &[Standing::Missing]);
        })
    };
    let rows = [
        (vec![], State::Certified, 20),
        (vec![fine(), accounted()], State::Certified, 20),
        (vec![fine(), skipped()], State::Skipped, 13),
        (vec![skipped(), missing()], State::Differs, 13),
        (vec![missing(), fine()], State::Differs, 14),
        (vec![both()], State::Differs, 17),
    ];
    for (lines, state, until) in rows {
        let certificate = Certificate::of("shop".into(), minutes(0, 30), minutes(10, 20), lines, &[]);
        assert_eq!((certificate.state, certificate.certified_until()), (state, Some(minute(until))), "{certificate:?}");
    }
}

#[test]
fn what_could_not_be_compared_certifies_nothing() {
    let expired = Certificate::of("shop".into(), minutes(0, 30), minutes(0, 0), Vec::new(), &["a".into(), "b".into()]);
    assert_eq!((expired.state, expired.certified_until(), expired.detail.as_str()), (State::Expired, None, "a; b"));
    let away = Certificate::unreachable("shop".into(), minutes(0, 30), "away".into());
    assert_eq!((away.state, away.certified_until(), away.compared.is_empty()), (State::Unreachable, None, true));
}

#[test]
fn a_line_names_so_many_missing_messages_and_counts_all() {
    let many = MISSING_IDS_MAX + 5;
    let line = line(|line| all_of(line, 1, &vec![Standing::Missing; many]));
    assert_eq!((line.missing, line.missing_ids.len()), (many as u64, MISSING_IDS_MAX));
}

#[test]
fn a_certificate_survives_its_json() {
    let lines = vec![line(|line| {
        line.skip(minute(13), 4);
        all_of(line, 14, &[Standing::Missing, Standing::Parked]);
    })];
    let other = Line::new(SubscriptionName::new("audit").unwrap());
    let certificate = Certificate::of("shop".into(), minutes(0, 30), minutes(10, 20), [lines, vec![other]].concat(), &[]);
    let text = serde_json::to_string(&certificate).unwrap();
    assert_eq!(serde_json::from_str::<Certificate>(&text).unwrap(), certificate, "{text}");
}
