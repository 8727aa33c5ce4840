//! An operator's order: every delivery of a message that is not done is sent again, in a new epoch.

use std::collections::BTreeMap;

use countersign_delivery::check::Check;
use countersign_delivery::message::Attempt;
use countersign_delivery::ports::deliveries::{Change, DeliveryKey};
use countersign_delivery::state::{Delivery, Event, Illegal, ResendReason};
use countersign_delivery::{Fingerprint, MessageId, SubscriptionName};
use countersign_telemetry::names;
use countersign_wire::proto::ResendDeliveryResult;
use tonic::Status;
use tracing::Span;

use super::{status, unknown};
use crate::check::is_expired;
use crate::command_resend::{Order, Outcome, Wanted, Written, command_resend};
use crate::desk::Desk;
use crate::rearm::{self, NewCheck};

/// Results by subscription, or why nothing was done at all.
pub(super) async fn redrive(
    desk: &Desk,
    id: MessageId,
    subscription: Option<SubscriptionName>,
) -> Result<Vec<ResendDeliveryResult>, Status> {
    let outcome = order_and_call(desk, id, subscription.as_ref()).await;
    let result = match &outcome {
        Ok(_) => "done",
        Err(_) => "refused",
    };
    metrics::counter!(names::OPERATOR_ACTS_TOTAL, "act" => "resend", "result" => result).increment(1);
    let why = outcome.as_ref().err().map(Status::message);
    tracing::info!(%id, subscription = subscription.as_ref().map(tracing::field::display), result, why, "an operator's resend");
    outcome
}

async fn order_and_call(
    desk: &Desk,
    id: MessageId,
    subscription: Option<&SubscriptionName>,
) -> Result<Vec<ResendDeliveryResult>, Status> {
    let rows = wanted_rows(desk, id, subscription).await?;
    let lease_ms = desk.policy.resend_lease_ms;
    let changes: Vec<Change<'_>> = rows
        .iter()
        .map(|(key, _)| Change {
            key: key.clone(),
            event: Event::Redrive { lease_ms, allow_duplicate: false, note: String::new() },
        })
        .collect();
    let states = desk.deliveries.apply(&changes).await.map_err(|error| status(&error))?;
    let mut results = BTreeMap::new();
    let mut ordered = Vec::new();
    for ((key, _), state) in rows.into_iter().zip(states) {
        match state {
            Ok(Some(row)) => ordered.push((key.subscription, row)),
            Ok(None) | Err(Illegal::Absent) => return Err(unknown(id)),
            Err(illegal) => {
                results.insert(key.subscription, ("already_done", illegal.to_string()));
            }
        }
    }
    if ordered.is_empty() {
        return Err(Status::failed_precondition(format!("message {id} is already done: nothing was sent again")));
    }
    let orders = orders(id, &ordered);
    let asked: Vec<Vec<SubscriptionName>> = orders.iter().map(|order| names_of(&order.wanted)).collect();
    // The orders stand in MSG DB from here on: whatever happens to the call, callback comes back to them.
    let outcomes = match command_resend(desk, orders, Written::Already).await {
        Ok(outcomes) => outcomes,
        Err(error) => {
            tracing::warn!(%error, %id, "the answer to an operator's resend could not be written down");
            asked.iter().map(|names| vec![Outcome::Again("not_written"); names.len()]).collect()
        }
    };
    let outcomes: Vec<(SubscriptionName, Outcome)> = asked.into_iter().flatten().zip(outcomes.into_iter().flatten()).collect();
    look_again_soon(desk, id, &ordered, &outcomes).await;
    results.extend(outcomes.into_iter().map(|(name, outcome)| (name, words(outcome))));
    Ok(results.into_iter().map(|(name, (result, detail))| result_of(&name, result, detail)).collect())
}

/// The rows asked for, unless they are unknown or too old.
async fn wanted_rows(
    desk: &Desk,
    id: MessageId,
    subscription: Option<&SubscriptionName>,
) -> Result<Vec<(DeliveryKey, Delivery)>, Status> {
    let rows = desk.deliveries.of_message(id).await.map_err(|error| status(&error))?;
    if rows.is_empty() {
        return Err(unknown(id));
    }
    let known: Vec<String> = rows.iter().map(|(key, _)| key.subscription.to_string()).collect();
    let rows: Vec<_> =
        rows.into_iter().filter(|(key, _)| subscription.is_none_or(|wanted| *wanted == key.subscription)).collect();
    if rows.is_empty() {
        let wanted = subscription.map(ToString::to_string).unwrap_or_default();
        let known = known.join(", ");
        return Err(Status::not_found(format!("callback knows message {id} for {known}, but not for {wanted}")));
    }
    let now = desk.deliveries.now().await.map_err(|error| status(&error))?;
    if rows.iter().any(|(_, row)| !row.is_done() && is_expired(desk, now, row.facts.sent_at)) {
        return Err(Status::failed_precondition(format!(
            "message {id} is older than dedup_retention ({} ms): its consumers may have forgotten that they did it, so sending it again \
             could have its effect twice",
            desk.figures.dedup_retention_ms
        )));
    }
    Ok(rows)
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

fn words(outcome: Outcome) -> (&'static str, String) {
    match outcome {
        Outcome::Resent => ("resent", String::new()),
        Outcome::AlreadyDone => ("already_done", "it was signed in the meantime".into()),
        Outcome::Parked => ("parked", "upstream cannot send it again; see its history".into()),
        Outcome::Again(why) => ("ordered", format!("{}; callback goes on", why.replace('_', " "))),
    }
}

fn result_of(name: &SubscriptionName, result: &str, detail: String) -> ResendDeliveryResult {
    ResendDeliveryResult { subscription: name.to_string(), result: result.to_owned(), detail }
}
