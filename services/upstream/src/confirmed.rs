//! Mode `confirmed`: published once and answered when the broker has confirmed. No row, no check, nothing to send again from.
//!
//! What can fail is the caller's to know: a nack, a return, and an answer that does not come within `confirm_wait_ms` are refusals. Only
//! a confirm is an acceptance. Bodies count against `max_in_flight_bytes` until the broker's answer, also when the caller is gone.

use std::sync::Arc;
use std::time::Duration;

use countersign_delivery::Message;
use countersign_delivery::ports::broker::Published;
use countersign_delivery::topology::Mode;
use countersign_wire::publication::{Publish, to_exchange};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, timeout_at};
use tracing::Span;

use crate::config::UpstreamSection;
use crate::desk::Desk;
use crate::publish::by_required;
use crate::refusal::Refusal;
use crate::send::{Accepted, Outcome, names_its_message, note_outcome, stopping, traced};

/// One message on its way.
struct Outgoing {
    message: Message,
    answer: oneshot::Sender<Published>,
    /// Held until its outcome is known.
    _room: OwnedSemaphorePermit,
}

/// The same, seen from its caller.
struct Pending {
    accepted: Accepted,
    exchange: String,
    routing_key: String,
    answer: oneshot::Receiver<Published>,
    span: Span,
}

/// Publishes messages; one outcome each, in order.
pub(crate) async fn send(desk: &Arc<Desk>, messages: Vec<Message>) -> Vec<Outcome> {
    let by = Instant::now() + Duration::from_millis(desk.config.confirm_wait_ms);
    let mut outgoing = Vec::with_capacity(messages.len());
    let pending: Vec<_> = messages.into_iter().map(|message| admit(desk, message, &mut outgoing)).collect();
    start(desk, outgoing);
    let mut outcomes = Vec::with_capacity(pending.len());
    for pending in pending {
        outcomes.push(match pending {
            Ok(pending) => pending.outcome(desk, by).await,
            Err(refusal) => Outcome::Refused(refusal),
        });
    }
    outcomes
}

/// Takes a message on if there is a broker, and room.
fn admit(desk: &Desk, message: Message, outgoing: &mut Vec<Outgoing>) -> Result<Pending, Refusal> {
    if desk.stop.is_soft() {
        return Err(stopping());
    }
    if !desk.publisher.is_up() {
        return Err(Refusal::Unconfirmed("there is no connection to the broker".into()));
    }
    let room = desk.in_flight.take(message.body.len()).ok_or_else(|| {
        let what = format!("too many bytes are being published (max_in_flight_bytes {})", desk.config.max_in_flight_bytes);
        Refusal::Exhausted { what, retry_ms: desk.config.retry_after_ms }
    })?;
    let (message, span) = traced(message);
    names_its_message(&span, message.id);
    let accepted = Accepted { id: message.id, fingerprint: message.fingerprint.clone(), duplicate: false };
    let (exchange, routing_key) = (message.exchange.clone(), message.routing_key.clone());
    let (sender, answer) = oneshot::channel();
    outgoing.push(Outgoing { message, answer: sender, _room: room });
    Ok(Pending { accepted, exchange, routing_key, answer, span })
}

/// Publishes in tasks that no caller can cancel, one for each required set.
fn start(desk: &Arc<Desk>, outgoing: Vec<Outgoing>) {
    for group in by_required(outgoing, |one| &one.message) {
        let (task, busy) = (desk.clone(), desk.busy.clone());
        desk.tasks.spawn("publish unstored", async move {
            let publish = |one: &Outgoing| to_exchange(&one.message, &task.config.name, Publish::FIRST);
            let outcomes = task.publisher.publish(group.iter().map(publish).collect()).await;
            if let Some(one) = group.first() {
                task.fullness.learn(&one.message.required, &outcomes);
            }
            for (one, outcome) in group.into_iter().zip(outcomes) {
                // A caller who is gone does not need the answer.
                let _ = one.answer.send(outcome);
            }
            drop(busy);
        });
    }
}

impl Pending {
    async fn outcome(self, desk: &Desk, by: Instant) -> Outcome {
        let Self { accepted, exchange, routing_key, answer, span } = self;
        let published = match timeout_at(by, answer).await {
            Ok(answer) => answer.unwrap_or(Published::Unknown),
            Err(_) => Published::Unknown,
        };
        let outcome = match published {
            Published::Confirmed => Outcome::Confirmed(accepted),
            Published::Nacked => {
                let what =
                    "the broker refused it, because a queue is full or the broker is in trouble, and nothing is stored".into();
                Outcome::Refused(Refusal::Exhausted { what, retry_ms: desk.config.retry_after_ms })
            }
            Published::Returned { reason } => Outcome::Refused(Refusal::Returned { exchange, routing_key, reason }),
            Published::Unknown => {
                let wait = desk.config.confirm_wait_ms;
                Outcome::Refused(Refusal::Unconfirmed(format!(
                    "the broker has not answered within {wait} ms, or its connection went"
                )))
            }
        };
        note_outcome(&span, &outcome);
        outcome
    }
}

/// What is wrong with the wait for confirms, with its remedy.
pub(crate) fn problem(section: &UpstreamSection, topology: &countersign_delivery::Topology) -> Option<String> {
    let route = topology.routes.iter().find(|route| route.mode == Mode::Confirmed)?;
    (section.confirm_wait_ms == 0).then(|| {
        format!(
            "upstream.confirm_wait_ms is 0, but the topology's route {}/{} has mode confirmed, which can only be answered after the broker \
             has: raise it",
            route.exchange, route.routing_key
        )
    })
}

#[cfg(test)]
mod tests;
