//! What an operator may do to a delivery: every word and command there can be against park, discard, restore and both redrives.

use super::*;

/// How long a redrive's order is held, milliseconds.
const LEASE_MS: u64 = 30;

/// Tries are written `epoch.number`. `said`: processing, retrying and failed alike. `no`: refused, and why. `again`: sent again in that
/// try's epoch; `anew`: that, and the epoch has an effect of its own, so that what was signed before counts no more.
const TABLE: &str = "
    word     | command       | park                | discard                | restore           | redrive       | allow_duplicate
    absent   |               | no: absent          | no: absent             | no: absent        | no: absent    | no: absent
    nothing  | none          | parked 0.1 operator | discarded 0.1 operator | no: not discarded | again 1.1     | anew 1.1
    nothing  | resending 0.3 | parked 0.3 operator | discarded 0.3 operator | no: not discarded | again 1.1     | anew 1.1
    nothing  | resent 0.3    | parked 0.3 operator | discarded 0.3 operator | no: not discarded | again 1.1     | anew 1.1
    nothing  | parked 0.3    | no: parked          | discarded 0.3 gone     | no: not discarded | again 1.1     | anew 1.1
    nothing  | discarded 0.3 | no: discarded       | no: discarded          | parked 0.3 gone   | no: discarded | no: discarded
    said 0.2 | none          | parked 0.2 operator | discarded 0.2 operator | no: not discarded | again 1.1     | anew 1.1
    said 0.2 | resending 0.3 | parked 0.3 operator | discarded 0.3 operator | no: not discarded | again 1.1     | anew 1.1
    said 0.2 | resent 0.3    | parked 0.3 operator | discarded 0.3 operator | no: not discarded | again 1.1     | anew 1.1
    said 0.2 | parked 0.3    | no: parked          | discarded 0.3 gone     | no: not discarded | again 1.1     | anew 1.1
    said 0.2 | discarded 0.3 | no: discarded       | no: discarded          | parked 0.3 gone   | no: discarded | no: discarded
    said 1.1 | none          | parked 1.1 operator | discarded 1.1 operator | no: not discarded | again 2.1     | anew 2.1
    said 1.1 | resending 0.3 | parked 1.1 operator | discarded 1.1 operator | no: not discarded | again 2.1     | anew 2.1
    said 1.1 | resent 0.3    | parked 1.1 operator | discarded 1.1 operator | no: not discarded | again 2.1     | anew 2.1
    said 1.1 | parked 0.3    | no: parked          | discarded 1.1 gone     | no: not discarded | again 2.1     | anew 2.1
    said 1.1 | discarded 0.3 | no: discarded       | no: discarded          | parked 0.3 gone   | no: discarded | no: discarded
    done 0.2 | none          | no: done            | no: done               | no: done          | no: done      | anew 1.1
    done 0.2 | resending 0.3 | no: done            | no: done               | no: done          | no: done      | anew 1.1
    done 0.2 | resent 0.3    | no: done            | no: done               | no: done          | no: done      | anew 1.1
    done 0.2 | parked 0.3    | no: done            | no: done               | no: done          | no: done      | anew 1.1
    done 0.2 | discarded 0.3 | no: done            | no: done               | no: done          | no: done      | anew 1.1
    done 1.1 | none          | no: done            | no: done               | no: done          | no: done      | anew 2.1
    done 1.1 | resending 0.3 | no: done            | no: done               | no: done          | no: done      | anew 2.1
    done 1.1 | resent 0.3    | no: done            | no: done               | no: done          | no: done      | anew 2.1
    done 1.1 | parked 0.3    | no: done            | no: done               | no: done          | no: done      | anew 2.1
    done 1.1 | discarded 0.3 | no: done            | no: done               | no: done          | no: done      | anew 2.1
";

fn operators_events() -> [Event<'static>; 5] {
    let note = || "ann: because".to_owned();
    [
        Event::ParkByOperator { note: note() },
        Event::Discard { note: note() },
        Event::Restore { note: note() },
        Event::Redrive { lease_ms: LEASE_MS, allow_duplicate: false, note: note() },
        Event::Redrive { lease_ms: LEASE_MS, allow_duplicate: true, note: note() },
    ]
}

/// What became of a delivery, as the table writes it. Everything that is not written there has stayed as it was.
fn became(row: &Delivery, to: &Delivery) -> String {
    let ordered_until = at(LEASE_MS.cast_signed());
    let (cell, expected) = match &to.command {
        Command::Parked { attempt, reason } => (format!("parked {} {}", shown(*attempt), reason.as_str()), row.clone()),
        Command::Discarded { attempt, reason } => (format!("discarded {} {}", shown(*attempt), reason.as_str()), row.clone()),
        Command::Resending { attempt, lease_until, unknown_answers: 0 } if *lease_until == ordered_until => {
            let due_at = Some(ordered_until.plus_millis(OVERDUE_MS));
            if to.effect_epoch == row.effect_epoch {
                (format!("again {}", shown(*attempt)), Delivery { due_at, ..row.clone() })
            } else {
                let anew = Delivery { signed: Signed::Nothing, effect_epoch: attempt.epoch, due_at, ..row.clone() };
                (format!("anew {}", shown(*attempt)), anew)
            }
        }
        other => panic!("no operator orders {other:?}"),
    };
    let due_at = expected.due_at.filter(|_| !to.is_put_aside());
    assert_eq!(*to, Delivery { command: to.command.clone(), due_at, ..expected }, "from {row:?}");
    cell
}

fn answered(row: Option<&Delivery>, event: &Event<'_>) -> String {
    match next(row, event, OVERDUE_MS, NOW) {
        Ok(Transition::Moved { to, noted: true }) => became(row.expect("no operator makes a delivery"), &to),
        Ok(other) => panic!("an operator's deed that leaves no line: {other:?}"),
        Err(Illegal::AlreadyDone) => "no: done".into(),
        Err(Illegal::Parked) => "no: parked".into(),
        Err(Illegal::Discarded) => "no: discarded".into(),
        Err(Illegal::NotDiscarded) => "no: not discarded".into(),
        Err(Illegal::Absent) => "no: absent".into(),
        Err(why @ (Illegal::OutOfDate | Illegal::SpokenSince)) => panic!("no operator is told {why}"),
    }
}

#[test]
fn what_an_operator_may_do_to_every_delivery() {
    let (earlier, later, commanded) = (attempt(0, 2), attempt(1, 1), attempt(0, 3));
    let mut table = Table::of(TABLE);
    let absent: Vec<_> = operators_events().iter().map(|event| answered(None, event)).collect();
    table.next_is(["absent", ""], &[absent]);
    for (word, signed) in [unsaid(), said_of(earlier), said_of(later), done_of(earlier), done_of(later)] {
        for (order, commands) in commands_of(commanded, &ParkReason::Gone) {
            let mut answers = Vec::new();
            for row in rows(&signed, &commands, &[0, 1]) {
                // No effect was allowed in an epoch that was not.
                let row = Delivery { effect_epoch: row.effect_epoch.min(row.attempt().epoch), ..row };
                answers.push(operators_events().iter().map(|event| answered(Some(&row), event)).collect());
            }
            table.next_is([&word, &order], &answers);
        }
    }
    table.ends();
}
