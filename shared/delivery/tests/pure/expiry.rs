//! What a verdict becomes in view of the message's age, row by row.

use countersign_delivery::check::Check;
use countersign_delivery::decide::{Verdict, WaitFor};
use countersign_delivery::expiry::Memory;
use countersign_delivery::state::{Command, ParkReason, ResendReason, Signed};
use countersign_delivery::{Attempt, Delivery, Timestamp};

use crate::support::*;

const DEDUP_MS: u64 = 1_000;
/// Nothing was ever deleted.
const ALL: Timestamp = Timestamp::from_millis(0);

fn wait() -> Verdict {
    Verdict::Wait { why: WaitFor::Probes, mark: None, wants_probe_after: None }
}

fn resend() -> Verdict {
    Verdict::Resend { attempt: attempt(0, 2), why: ResendReason::Lost { probe: 2 } }
}

fn in_time(sent_at: Timestamp, forgotten_before: Timestamp, row: Option<&Delivery>, verdict: Verdict) -> Verdict {
    let check = Check { sent_at, ..check(Attempt::FIRST) };
    Memory { dedup_retention_ms: DEDUP_MS, forgotten_before }.in_time(&check, row, NOW, verdict)
}

#[test]
fn each_verdict_by_age_and_row() {
    let minted = id().minted_at();
    let (young, expired) = (at(-999), at(-1_000));
    let gone = minted.plus_millis(1);
    let (exhausted, too_old) = (Verdict::Park(ParkReason::ResendsExhausted), Verdict::Park(ParkReason::Expired));
    let row = delivery(Signed::Processing { attempt: Attempt::FIRST }, Command::None, None);
    let (some, none) = (Some(&row), None);
    let table = [
        // Young: as it is.
        (young, ALL, none, wait(), wait()),
        (young, ALL, none, resend(), resend()),
        (young, ALL, some, resend(), resend()),
        // Expired, and nothing of it may have been deleted: a human has to know.
        (expired, ALL, none, wait(), too_old.clone()),
        (expired, ALL, some, wait(), wait()),
        (expired, ALL, none, exhausted.clone(), exhausted.clone()),
        (expired, ALL, none, Verdict::Verified, Verdict::Verified),
        (expired, minted, none, wait(), too_old),
        // Of an age that was deleted: without a row it was settled, with one it was not.
        (expired, gone, none, wait(), Verdict::Stale),
        (expired, gone, none, resend(), Verdict::Stale),
        (expired, gone, none, exhausted.clone(), Verdict::Stale),
        (expired, gone, some, resend(), resend()),
        (expired, gone, some, wait(), wait()),
        (expired, gone, some, exhausted.clone(), exhausted),
        (expired, gone, some, Verdict::Verified, Verdict::Verified),
    ];
    for (number, (sent_at, forgotten_before, row, verdict, expected)) in table.into_iter().enumerate() {
        assert_eq!(in_time(sent_at, forgotten_before, row, verdict.clone()), expected, "row {number}: {verdict:?}");
    }
}
