//! An order about dead letters from its first word to its last: its row in the audit is begun before anything of it is checked, so that what
//! is refused has its row too. A dry run touches nothing and has none.

use countersign_boot::Stop;
use countersign_delivery::ports::audit::{Act, ActResult, NewAct};
use countersign_telemetry::names;
use countersign_wire::proto::DeadLetterFilter;
use tokio::sync::{mpsc, oneshot};
use tonic::{Code, Status};

use super::super::{message_id, status};
use crate::dead_letters::act::{Event, Order, carry_out};
use crate::desk::Desk;
use crate::operate::row::Row;

/// Ids that are spelled out when an order names several.
const IDS_SHOWN: usize = 4;

/// An order as it was asked for; `checked` is what became of its words.
pub(super) struct Asked {
    pub(super) row: NewAct,
    pub(super) validate_only: bool,
    pub(super) checked: Result<Order, Status>,
}

/// Has it carried out; `answer` is told first whether it is going to be. Both may be gone: the row is ended all the same.
pub(super) async fn order(
    desk: Desk,
    asked: Asked,
    stop: Stop,
    events: mpsc::Sender<Event>,
    answer: oneshot::Sender<Result<(), Status>>,
) {
    match begun(&desk, asked).await {
        Ok((order, row)) => {
            // Whoever is gone is noticed by the act.
            let _ = answer.send(Ok(()));
            carry_out(desk, order, row, stop, events).await;
        }
        Err(refused) => drop(answer.send(Err(refused))),
    }
}

/// Has `act` carried out within its row; `done` says what came of it.
pub(super) async fn audited<T>(
    desk: &Desk,
    row: &NewAct,
    act: impl Future<Output = Result<T, Status>>,
    done: impl FnOnce(&T) -> String,
) -> Result<T, Status> {
    let begun = Row::begin(desk, row).await.map_err(|error| status(&error));
    let begun = begun.inspect_err(|_| count(row.act, ActResult::Failed))?;
    let outcome = act.await;
    let (result, detail) = match &outcome {
        Ok(answer) => (ActResult::Done, done(answer)),
        Err(error) if error.code() == Code::Unavailable => (ActResult::Failed, error.message().to_owned()),
        Err(error) => (ActResult::Refused, error.message().to_owned()),
    };
    count(row.act, result);
    begun.end(desk, result, &detail).await;
    outcome
}

/// The order, if it may be carried out, and its row.
async fn begun(desk: &Desk, Asked { row, validate_only, checked }: Asked) -> Result<(Order, Option<Row>), Status> {
    let act = row.act;
    if validate_only {
        return checked.map(|order| (order, None)).inspect_err(|_| count(act, ActResult::Refused));
    }
    let begun = Row::begin(desk, &row).await.map_err(|error| status(&error)).inspect_err(|_| count(act, ActResult::Failed))?;
    match checked {
        Ok(order) => Ok((order, Some(begun))),
        Err(refused) => {
            let NewAct { target, by, reason, .. } = row;
            tracing::info!(act = act.as_str(), target, by, reason, refused = refused.message(), "an operator's order is refused");
            count(act, ActResult::Refused);
            begun.end(desk, ActResult::Refused, refused.message()).await;
            Err(refused)
        }
    }
}

/// An order that came to nothing; what became of letters is counted one by one.
fn count(act: Act, result: ActResult) {
    metrics::counter!(names::OPERATOR_ACTS_TOTAL, "act" => act.as_str(), "result" => result.as_str()).increment(1);
}

/// The filter of an order in words, as the audit keeps it: one message alone is its id, so that it is found by it.
pub(super) fn in_words(filter: &DeadLetterFilter, limit: u32) -> String {
    let DeadLetterFilter { subscription: _, quarantine, reasons, r#type, message_ids, upstream, routing_key, .. } = filter;
    let mut words = Vec::new();
    let mut say = |said: bool, what: &str, value: &str| {
        if said {
            words.push(format!("{what}{value}"));
        }
    };
    say(*quarantine, "quarantine", "");
    say(!reasons.is_empty(), "reason ", &reasons.join(" or "));
    say(!r#type.is_empty(), "type ", r#type);
    say(!upstream.is_empty(), "from ", upstream);
    say(!routing_key.is_empty(), "routing key ", routing_key);
    say(filter.died_after_ms != 0, "died at or after ms ", &filter.died_after_ms.to_string());
    say(filter.died_before_ms != 0, "died before ms ", &filter.died_before_ms.to_string());
    say(!filter.states.is_empty(), "state ", &filter.states.join(" or "));
    say(limit != 0, "at most ", &limit.to_string());
    match &message_ids[..] {
        [one] if words.is_empty() => return message_id(one).map_or_else(|_| one.clone(), |id| id.to_string()),
        [] => {}
        ids if ids.len() <= IDS_SHOWN => words.push(format!("of {}", ids.join(" "))),
        ids => words.push(format!("of {} messages: {} …", ids.len(), ids[..IDS_SHOWN].join(" "))),
    }
    if words.is_empty() { "all".to_owned() } else { words.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_put_into_words() {
        const ID: &str = "019abcde-0000-7000-8000-000000000001";
        let named = |ids: &[&str]| DeadLetterFilter {
            message_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
            ..DeadLetterFilter::default()
        };
        let everything = DeadLetterFilter {
            subscription: "inventory".into(),
            quarantine: true,
            reasons: vec!["rejected".into(), "poison".into()],
            r#type: "order.created".into(),
            message_ids: vec!["m-1".into()],
            upstream: "shop".into(),
            routing_key: "order.#".into(),
            died_after_ms: 7,
            died_before_ms: 9,
            states: vec!["settled".into()],
        };
        let rows = [
            (DeadLetterFilter::default(), 0, "all"),
            (DeadLetterFilter::default(), 10, "at most 10"),
            (named(&[&ID.to_uppercase()]), 0, ID),
            (named(&["litter-7"]), 0, "litter-7"),
            (named(&[ID]), 1, "at most 1, of 019abcde-0000-7000-8000-000000000001"),
            (named(&["a", "b"]), 0, "of a b"),
            (named(&["a", "b", "c", "d", "e"]), 0, "of 5 messages: a b c d …"),
            (
                everything,
                3,
                "quarantine, reason rejected or poison, type order.created, from shop, routing key order.#, died at or after ms 7, \
                 died before ms 9, state settled, at most 3, of m-1",
            ),
        ];
        for (filter, limit, expected) in rows {
            assert_eq!(in_words(&filter, limit), expected, "{filter:?}");
        }
    }
}
