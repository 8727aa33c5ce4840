//! Redrive: what is not done is sent again, in a new epoch; what is done, or too old, only if a second effect is allowed.
//!
//! The order is written down first, so that whatever happens to the call callback comes back to it.

use std::collections::BTreeMap;

use countersign_delivery::check::Check;
use countersign_delivery::message::Attempt;
use countersign_delivery::ports::deliveries::{Change, DeliveryKey};
use countersign_delivery::state::{Command, Delivery, Event, ResendReason};
use countersign_delivery::{Fingerprint, MessageId, SubscriptionName};
use tracing::Span;

use super::rows::rows;
use super::{ActOutcome, Checked, Refusal, word_of};
use crate::check::is_expired;
use crate::command_resend::{Order, Outcome, Wanted, Written, command_resend};
use crate::desk::Desk;
use crate::rearm::{self, NewCheck};

/// How a second effect is allowed, for messages.
const ALLOW: &str = "--allow-duplicate (allow_duplicate) sends it all the same, and its effect may happen a second time";

/// Redrives what is named, or every delivery of the message that is not done; where all are done and a second effect is allowed, all.
pub(super) async fn redrive(desk: &Desk, act: &Checked) -> Result<Vec<ActOutcome>, Refusal> {
    let (rows, done) = wanted_rows(desk, act).await?;
    let (ordered, mut outcomes) = order(desk, act, rows).await?;
    outcomes.extend(done.into_iter().map(|key| already_done(key.subscription)));
    if ordered.is_empty() {
        return Err(nothing_ordered(act, &outcomes));
    }
    let orders = orders(act.id, &ordered);
    let asked: Vec<Vec<SubscriptionName>> = orders.iter().map(|order| names_of(&order.wanted)).collect();
    let called = match command_resend(desk, orders, Written::Already).await {
        Ok(called) => called,
        Err(error) => {
            tracing::warn!(%error, id = %act.id, "the answer to an operator's redrive could not be written down");
            asked.iter().map(|names| vec![Outcome::Again("not_written"); names.len()]).collect()
        }
    };
    let called: Vec<(SubscriptionName, Outcome)> = asked.into_iter().flatten().zip(called.into_iter().flatten()).collect();
    look_again_soon(desk, act.id, &ordered, &called).await;
    outcomes.extend(called.into_iter().map(|(subscription, outcome)| outcome_of(subscription, outcome)));
    outcomes.sort_by(|one, other| one.subscription.cmp(&other.subscription));
    Ok(outcomes)
}

/// Deliveries in the state that they are in now.
type Rows = Vec<(DeliveryKey, Delivery)>;

/// What is to be redriven, unless some of it is too old; and what is left out because it is done.
async fn wanted_rows(desk: &Desk, act: &Checked) -> Result<(Rows, Vec<DeliveryKey>), Refusal> {
    let (done, open): (Rows, Rows) = rows(desk, act).await?.into_iter().partition(|(_, row)| row.is_done());
    if act.allow_duplicate {
        let left_out = done.iter().map(|(key, _)| key.clone()).collect();
        return Ok(if open.is_empty() { (done, Vec::new()) } else { (open, left_out) });
    }
    let now = desk.deliveries.now().await?;
    // What is discarded is refused for that, however old it is.
    // Where an operator has allowed a further effect before, its own record is asked, which is younger than the message.
    for (_, row) in open.iter().filter(|(_, row)| !matches!(row.command, Command::Discarded { .. }) && row.effect_epoch == 0) {
        if is_expired(desk, now, row.facts.sent_at) {
            return Err(Refusal::DoesNotApply(format!(
                "message {} is older than dedup_retention ({} ms): its consumers may have forgotten that they did it, so sending it again \
                 could have its effect twice; {ALLOW}",
                act.id, desk.figures.dedup_retention_ms
            )));
        }
    }
    Ok((open, done.into_iter().map(|(key, _)| key).collect()))
}

/// Writes the orders down, in one transaction. What was ordered, as it stands now, and what was not.
async fn order(desk: &Desk, act: &Checked, rows: Rows) -> Result<(Vec<(SubscriptionName, Delivery)>, Vec<ActOutcome>), Refusal> {
    let (lease_ms, allow_duplicate) = (desk.policy.resend_lease_ms, act.allow_duplicate);
    let event = Event::Redrive { lease_ms, allow_duplicate, note: act.note() };
    let changes: Vec<Change<'_>> = rows.iter().map(|(key, _)| Change { key: key.clone(), event: event.clone() }).collect();
    let states = if changes.is_empty() { Vec::new() } else { desk.deliveries.apply(&changes).await? };
    let (mut ordered, mut refused) = (Vec::new(), Vec::new());
    for ((DeliveryKey { subscription, .. }, _), state) in rows.into_iter().zip(states) {
        match state {
            Ok(Some(row)) => ordered.push((subscription, row)),
            Ok(None) => refused.push(ActOutcome { subscription, result: "changed", detail: "its row is gone".into() }),
            Err(illegal) => refused.push(ActOutcome { subscription, result: word_of(illegal), detail: illegal.to_string() }),
        }
    }
    Ok((ordered, refused))
}

fn already_done(subscription: SubscriptionName) -> ActOutcome {
    ActOutcome { subscription, result: "already_done", detail: "the delivery is already done".into() }
}

fn nothing_ordered(act: &Checked, outcomes: &[ActOutcome]) -> Refusal {
    let id = act.id;
    if outcomes.iter().all(|one| one.result == "already_done") {
        return Refusal::DoesNotApply(format!("message {id} is already done: nothing was sent again; {ALLOW}"));
    }
    let why: Vec<String> = outcomes.iter().map(|one| format!("{}: {}", one.subscription, one.detail)).collect();
    Refusal::DoesNotApply(format!("message {id}: nothing was sent again; {}", why.join(", ")))
}

/// What deliveries have in common that one order names.
type Tried = (Attempt, u32, Fingerprint);

/// One order for all deliveries that are at the same try; they may differ, since each has its own epochs.
fn orders(id: MessageId, ordered: &[(SubscriptionName, Delivery)]) -> Vec<Order> {
    let mut groups: BTreeMap<Tried, Vec<&(SubscriptionName, Delivery)>> = BTreeMap::new();
    for one in ordered {
        groups.entry((one.1.attempt(), one.1.effect_epoch, one.1.facts.fingerprint.clone())).or_default().push(one);
    }
    let order = |((attempt, effect_epoch, _), members): (Tried, Vec<&(SubscriptionName, Delivery)>)| {
        let wanted = members.iter().map(|(name, row)| Wanted {
            subscription: name.clone(),
            seen_live_until: row.live_until,
            why: ResendReason::Repeated,
        });
        let facts = members.first()?.1.facts.clone();
        let wanted = wanted.collect();
        Some(Order { message_id: id, facts, attempt, effect_epoch, wanted, trace: None, cause: Span::current() })
    };
    groups.into_iter().filter_map(order).collect()
}

fn names_of(wanted: &[Wanted]) -> Vec<SubscriptionName> {
    wanted.iter().map(|wanted| wanted.subscription.clone()).collect()
}

/// A check for what upstream has not carried out, so that callback goes on soon. If it cannot be published the sweep does it later.
async fn look_again_soon(
    desk: &Desk,
    id: MessageId,
    ordered: &[(SubscriptionName, Delivery)],
    outcomes: &[(SubscriptionName, Outcome)],
) {
    let queue = desk.topology.check_tier_queue(desk.topology.recheck_delay_ms(0));
    let open = |name: &SubscriptionName| outcomes.iter().any(|(of, outcome)| of == name && matches!(outcome, Outcome::Again(_)));
    let new = ordered.iter().filter(|(name, _)| open(name)).map(|(name, row)| NewCheck {
        queue: queue.clone(),
        upstream: row.facts.upstream.clone(),
        check: Check {
            message_id: id,
            fingerprint: row.facts.fingerprint.clone(),
            attempt: row.attempt_to_check(),
            waits: 1,
            sent_at: row.facts.sent_at,
            required: vec![name.clone()],
            marks: Vec::new(),
            trace: None,
        },
    });
    if let Some(why) = rearm::publish(desk, new.collect()).await.why {
        tracing::warn!(%why, %id, "no check for an open order: the sweep comes back to it");
    }
}

fn outcome_of(subscription: SubscriptionName, outcome: Outcome) -> ActOutcome {
    let (result, detail) = match outcome {
        Outcome::Resent => ("resent", String::new()),
        Outcome::AlreadyDone => ("already_done", "it was signed in the meantime".into()),
        Outcome::Parked => ("parked", "upstream cannot send it again; see its history".into()),
        Outcome::Again(why) => ("ordered", format!("{}; callback goes on", why.replace('_', " "))),
    };
    ActOutcome { subscription, result, detail }
}
