//! What a receipt says that comes late, or early: each word and command against tries and epochs before, of and after theirs.

use super::*;

/// Of an older epoch; an older try; the try that is commanded; a newer epoch, which an operator of downstream began.
const TRIES: [Attempt; 4] = [attempt(0, 3), attempt(1, 1), attempt(1, 2), attempt(2, 1)];

/// Receipts of `processing` and `retrying` on the left, of `failed` on the right, each of the tries 0.3, 1.1, 1.2 and 2.1, written
/// `epoch.number`. `live`: processing and retrying alike. `-`: it says nothing new. `word`: it is the subscription's last word now, and the
/// command stands. `resent`, `parked`: so it is, and the delivery is under way again, or parked again, at that try.
const UNFINISHED: &str = "
    word       | command       | live 0.3 | 1.1  | 1.2  | 2.1    | failed 0.3 | 1.1  | 1.2  | 2.1
    nothing    | none          | word     | word | word | word   | word       | word | word | word
    nothing    | resending 1.2 | -        | word | word | word   | -          | word | word | word
    nothing    | resent 1.2    | -        | word | word | word   | -          | word | word | word
    nothing    | parked 1.2    | -        | word | word | resent | -          | word | word | parked
    nothing    | discarded 1.2 | -        | word | word | word   | -          | word | word | word
    live 1.1   | none          | -        | word | word | word   | -          | word | word | word
    live 1.1   | resending 1.2 | -        | word | word | word   | -          | word | word | word
    live 1.1   | resent 1.2    | -        | word | word | word   | -          | word | word | word
    live 1.1   | parked 1.2    | -        | word | word | resent | -          | word | word | parked
    live 1.1   | discarded 1.2 | -        | word | word | word   | -          | word | word | word
    failed 1.1 | none          | -        | -    | word | word   | -          | -    | word | word
    failed 1.1 | resending 1.2 | -        | -    | word | word   | -          | -    | word | word
    failed 1.1 | resent 1.2    | -        | -    | word | word   | -          | -    | word | word
    failed 1.1 | parked 1.2    | -        | -    | word | resent | -          | -    | word | parked
    failed 1.1 | discarded 1.2 | -        | -    | word | word   | -          | -    | word | word
    done 1.1   | none          | -        | -    | -    | -      | -          | -    | -    | -
    done 1.1   | resending 1.2 | -        | -    | -    | -      | -          | -    | -    | -
    done 1.1   | resent 1.2    | -        | -    | -    | -      | -          | -    | -    | -
    done 1.1   | parked 1.2    | -        | -    | -    | -      | -          | -    | -    | -
    done 1.1   | discarded 1.2 | -        | -    | -    | -      | -          | -    | -    | -
";

/// Receipts of `done`, whatever the command. `effect`: the epoch in which another effect was allowed; what was done before that is not it.
const DONE: &str = "
    word       | effect | done 0.3 | 1.1  | 1.2  | 2.1
    nothing    | 0      | word     | word | word | word
    nothing    | 1      | -        | word | word | word
    nothing    | 2      | -        | -    | -    | word
    live 1.1   | 0      | word     | word | word | word
    live 1.1   | 1      | -        | word | word | word
    live 1.1   | 2      | -        | -    | -    | word
    failed 1.1 | 0      | word     | word | word | word
    failed 1.1 | 1      | -        | word | word | word
    failed 1.1 | 2      | -        | -    | -    | word
    done 1.1   | 0      | -        | -    | -    | -
    done 1.1   | 1      | -        | -    | -    | -
    done 1.1   | 2      | -        | -    | -    | -
";

/// Longer than any word of [`rows`] is believed.
const LIVE_MS: u64 = 2_000;

fn live() -> Vec<Outcome> {
    vec![Outcome::Processing { lease_ms: LIVE_MS }, Outcome::Retrying { delay_ms: LIVE_MS, detail: "busy".into() }]
}

fn failed() -> Vec<Outcome> {
    vec![Outcome::Failed { reason: FailReason::Poison, detail: "it crashed".into() }]
}

fn words() -> [(String, Vec<Signed>); 4] {
    let at = TRIES[1];
    let failed = Signed::Failed { attempt: at, reason: FailReason::Rejected, detail: "why".into() };
    let live = [Signed::Processing { attempt: at }, Signed::Retrying { attempt: at, delay_ms: 9, detail: String::new() }];
    [unsaid(), ("live 1.1".into(), live.into()), ("failed 1.1".into(), vec![failed]), done_of(at)]
}

/// What a receipt came to, as the tables write it. Everything that is not written there is as it was.
fn came_to(row: &Delivery, receipt: &Receipt) -> &'static str {
    let to = match next(Some(row), &Event::Signed(receipt), OVERDUE_MS, NOW) {
        Ok(Transition::Unchanged) => return "-",
        Ok(Transition::Moved { to, .. }) => to,
        Err(why) => panic!("a receipt is never refused: {why}"),
    };
    let attempt = receipt.attempt;
    let until = NOW.plus_millis(LIVE_MS);
    let (signed, live_until) = match receipt.outcome.clone() {
        Outcome::Done => (Signed::Done { attempt }, row.live_until),
        Outcome::Failed { reason, detail } => (Signed::Failed { attempt, reason, detail }, row.live_until),
        Outcome::Retrying { delay_ms, detail } => (Signed::Retrying { attempt, delay_ms, detail }, Some(until)),
        Outcome::Processing { .. } => (Signed::Processing { attempt }, Some(until)),
    };
    let (cell, command) = match &to.command {
        command if *command == row.command => ("word", command.clone()),
        Command::Resent { .. } => ("resent", Command::Resent { attempt }),
        _ => ("parked", Command::Parked { attempt, reason: ParkReason::Failed(FailReason::Poison) }),
    };
    let settled = to.is_done() || to.is_put_aside();
    let due_at = (!settled).then(|| live_until.unwrap_or(NOW).max(NOW).plus_millis(OVERDUE_MS));
    assert_eq!(*to, Delivery { signed, command, live_until, due_at, ..row.clone() }, "from {row:?} by {receipt:?}");
    cell
}

/// The answers to these outcomes, of each try one.
fn answers(row: &Delivery, outcome: &Outcome) -> Vec<String> {
    TRIES.iter().map(|attempt| came_to(row, &receipt(*attempt, outcome.clone())).to_owned()).collect()
}

#[test]
fn what_a_receipt_of_another_try_or_epoch_says_unless_it_is_done() {
    let mut table = Table::of(UNFINISHED);
    for (word, signed) in words() {
        for (order, commands) in commands_of(TRIES[2], &ParkReason::ResendsExhausted) {
            let mut seen = Vec::new();
            for row in rows(&signed, &commands, &[0, 1, 2]) {
                for (live, failed) in
                    live().iter().flat_map(|live| failed().into_iter().map(move |failed| (live.clone(), failed)))
                {
                    seen.push([answers(&row, &live), answers(&row, &failed)].concat());
                }
            }
            table.next_is([&word, &order], &seen);
        }
    }
    table.ends();
}

#[test]
fn what_a_done_of_another_try_or_epoch_says() {
    let mut table = Table::of(DONE);
    for (word, signed) in words() {
        for effect_epoch in 0..=2 {
            let commands = commands_of(TRIES[2], &ParkReason::ResendsExhausted);
            let commands: Vec<_> = commands.into_iter().flat_map(|(_, commands)| commands).collect();
            let rows = rows(&signed, &commands, &[effect_epoch]);
            let seen: Vec<_> = rows.iter().map(|row| answers(row, &Outcome::Done)).collect();
            table.next_is([&word, &effect_epoch.to_string()], &seen);
        }
    }
    table.ends();
}
