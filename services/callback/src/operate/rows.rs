//! The deliveries that an act is about, and the acts that are one event each.

use countersign_delivery::ports::deliveries::{Change, DeliveryKey};
use countersign_delivery::state::{Delivery, Event};

use super::{ActOutcome, Checked, Refusal, unknown, word_of};
use crate::desk::Desk;

/// The delivery that is named, or every one of the message; never none.
pub(super) async fn rows(desk: &Desk, act: &Checked) -> Result<Vec<(DeliveryKey, Delivery)>, Refusal> {
    let rows = desk.deliveries.of_message(act.id).await?;
    if rows.is_empty() {
        return Err(Refusal::Unknown(unknown(act.id)));
    }
    let Some(wanted) = &act.subscription else { return Ok(rows) };
    let known: Vec<String> = rows.iter().map(|(key, _)| key.subscription.to_string()).collect();
    let named: Vec<_> = rows.into_iter().filter(|(key, _)| key.subscription == *wanted).collect();
    if named.is_empty() {
        let (id, known) = (act.id, known.join(", "));
        return Err(Refusal::Unknown(format!("callback knows message {id} for {known}, but not for {wanted}")));
    }
    Ok(named)
}

/// Applies one event to each of these deliveries, in one transaction; `took` is the word for those it applied to.
pub(super) async fn apply_to_each(
    desk: &Desk,
    act: &Checked,
    rows: Vec<(DeliveryKey, Delivery)>,
    event: &Event<'static>,
    took: &'static str,
) -> Result<Vec<ActOutcome>, Refusal> {
    let changes: Vec<Change<'_>> = rows.iter().map(|(key, _)| Change { key: key.clone(), event: event.clone() }).collect();
    let states = desk.deliveries.apply(&changes).await?;
    let outcome = |((key, _), state): ((DeliveryKey, Delivery), Result<_, _>)| match state {
        Ok(_) => ActOutcome { subscription: key.subscription, result: took, detail: String::new() },
        Err(illegal) => ActOutcome { subscription: key.subscription, result: word_of(illegal), detail: illegal.to_string() },
    };
    let outcomes: Vec<ActOutcome> = rows.into_iter().zip(states).map(outcome).collect();
    if outcomes.iter().all(|one| one.result != took) {
        let why: Vec<String> = outcomes.iter().map(|one| format!("{}: {}", one.subscription, one.detail)).collect();
        return Err(Refusal::DoesNotApply(format!("message {}: nothing was {took}; {}", act.id, why.join(", "))));
    }
    Ok(outcomes)
}
