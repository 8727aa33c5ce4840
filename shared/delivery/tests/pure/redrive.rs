//! Whether a dead letter may be sent again, as a table.

use countersign_delivery::redrive::{Dead, EPOCH_MAX, Refusal, may_redrive, next_epoch};
use countersign_delivery::state::{Command, ParkReason, Signed};
use countersign_delivery::{Attempt, Delivery, FailReason};

use crate::support::{self, NOW, at, genuine, impostor};

const MEMORY_MS: u64 = 1_000;

const fn attempt(epoch: u32) -> Attempt {
    support::attempt(epoch, 1)
}

fn dead(epoch: u32) -> Dead {
    Dead { fingerprint: genuine(), attempt: attempt(epoch), sent_at: NOW, effect_epoch: 0, conflict: false }
}

fn delivery(signed: Signed, command: Command) -> Delivery {
    support::delivery(signed, command, None)
}

fn failed(epoch: u32) -> Signed {
    Signed::Failed { attempt: attempt(epoch), reason: FailReason::Rejected, detail: String::new() }
}

fn parked(epoch: u32) -> Command {
    Command::Parked { attempt: attempt(epoch), reason: ParkReason::Failed(FailReason::Rejected) }
}

fn resending(epoch: u32) -> Command {
    Command::Resending { attempt: attempt(epoch), lease_until: NOW, unknown_answers: 0 }
}

#[test]
fn a_letter_is_sent_again_unless_its_delivery_speaks_against_it() {
    let discarded = Command::Discarded { attempt: attempt(0), reason: ParkReason::Operator };
    let resent = |epoch| Command::Resent { attempt: attempt(epoch) };
    let processing = |epoch| Signed::Processing { attempt: attempt(epoch) };
    let rows = [
        ("nobody knows it", None, Ok(())),
        ("failed", Some(delivery(failed(0), Command::None)), Ok(())),
        ("parked", Some(delivery(failed(0), parked(0))), Ok(())),
        ("parked after a later try", Some(delivery(failed(3), parked(3))), Ok(())),
        ("done", Some(delivery(Signed::Done { attempt: attempt(0) }, Command::None)), Err(Refusal::AlreadyDone)),
        ("done after it was parked", Some(delivery(Signed::Done { attempt: attempt(1) }, parked(0))), Err(Refusal::AlreadyDone)),
        ("discarded", Some(delivery(failed(0), discarded)), Err(Refusal::Discarded)),
        ("ordered, no answer", Some(delivery(failed(0), resending(1))), Ok(())),
        ("sent again", Some(delivery(failed(0), resent(1))), Err(Refusal::UnderWay(1))),
        ("sent again and held", Some(delivery(processing(1), resent(1))), Err(Refusal::UnderWay(1))),
        ("sent again and failed", Some(delivery(failed(1), resent(1))), Ok(())),
        ("resent in its own epoch", Some(delivery(failed(0), resent(0))), Ok(())),
        ("a copy of it is held", Some(delivery(processing(0), Command::None)), Ok(())),
    ];
    for (what, delivery, expected) in rows {
        assert_eq!(may_redrive(&dead(0), delivery.as_ref(), MEMORY_MS, NOW), expected, "{what}");
    }
}

#[test]
fn another_content_under_its_id_is_never_touched() {
    let other = Dead { fingerprint: impostor(), ..dead(0) };
    for signed in [failed(0), Signed::Done { attempt: attempt(0) }, Signed::Nothing] {
        let row = delivery(signed, Command::None);
        assert_eq!(may_redrive(&other, Some(&row), MEMORY_MS, NOW), Err(Refusal::OtherContent));
    }
    let conflict = Dead { conflict: true, ..dead(0) };
    assert_eq!(may_redrive(&conflict, None, MEMORY_MS, NOW), Err(Refusal::OtherContent));
    assert_eq!(may_redrive(&conflict, Some(&delivery(failed(0), parked(0))), MEMORY_MS, NOW), Ok(()), "it was the right one");
}

#[test]
fn what_the_guard_has_forgotten_is_refused() {
    let old = |age_ms: i64| Dead { sent_at: at(-age_ms), ..dead(0) };
    assert_eq!(may_redrive(&old(999), None, MEMORY_MS, NOW), Ok(()));
    assert_eq!(may_redrive(&old(1_000), None, MEMORY_MS, NOW), Err(Refusal::Forgotten(MEMORY_MS)));
    let done = delivery(Signed::Done { attempt: attempt(0) }, Command::None);
    assert_eq!(may_redrive(&old(9_999), Some(&done), MEMORY_MS, NOW), Err(Refusal::AlreadyDone), "that settles it");
}

#[test]
fn the_epoch_is_above_all_that_was() {
    for (letter, row, expected) in [(0, None, 1), (4, None, 5), (4, Some(2), 5), (4, Some(7), 8)] {
        let row = row.map(|epoch| delivery(failed(epoch), parked(epoch)));
        assert_eq!(next_epoch(&dead(letter), row.as_ref()), expected);
    }
    assert_eq!(may_redrive(&dead(EPOCH_MAX), None, MEMORY_MS, NOW), Err(Refusal::Nonsense));
    assert_eq!(may_redrive(&dead(u32::MAX), None, MEMORY_MS, NOW), Err(Refusal::Nonsense));
}
