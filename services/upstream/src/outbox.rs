//! Mode `outbox`: a row with a status, published until the broker has confirmed it, or until a human must look.
//!
//! The row is stored as any other ([`crate::commit`]), and its seq is done with that: from then on its own status tracks it. It is
//! published at once; what the broker said is gathered and written in batches ([`outcomes`]). What it did not say changes nothing: the
//! row stays at 0, and a sweeper publishes it again when it is due ([`sweep`]), of this process or of any other. What this process knows to
//! be in doubt does not wait for that: it is claimed by name as soon as there is a broker ([`waiting`]).
//!
//! What can fail: the process between commit and publish, or between confirm and write (the row is swept); the broker (likewise); the
//! broker refuses (a try; after more than `outbox_max_tries` the row waits for a human, who releases it).
//!
//! **Invariant:** only a nack or a return is a try.

pub(crate) mod operate;
pub(crate) mod outcomes;
pub(crate) mod sweep;
pub(crate) mod waiting;

use std::sync::Arc;

use countersign_delivery::outbox::Outcome;
use countersign_delivery::ports::broker::Published;
use countersign_delivery::{Attempt, Message, Position, Seq};
use countersign_wire::publication::{Publish, to_exchange};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::check_queue::{Done, Scheduled};
use crate::desk::Desk;
use crate::ledger::Ledger;
use crate::outbox::outcomes::Known;
use crate::publish::{by_required, publish_all};

/// One row on its way.
struct Outgoing {
    position: Position,
    message: Message,
    /// Held until its outcome is known.
    _room: OwnedSemaphorePermit,
}

/// Takes over rows that were committed a moment ago, and publishes what there is room for; the rest is in doubt from the start.
pub(crate) fn take_over(desk: &Arc<Desk>, ledger: &Ledger, rows: Vec<(Seq, Message)>, publish: Publish) {
    let up = desk.publisher.is_up();
    let mut outgoing = Vec::with_capacity(rows.len());
    for (seq, message) in rows {
        let position = ledger.position(seq);
        desk.waiting.add(position, ledger.hand_over(seq), desk.clock.now());
        match if up { desk.in_flight.take(message.body.len()) } else { None } {
            Some(room) => outgoing.push(Outgoing { position, message, _room: room }),
            None => desk.waiting.doubt(position, up, |tries| desk.republish_at(tries)),
        }
    }
    for group in by_required(outgoing, |one| &one.message) {
        desk.tasks.spawn("publish outbox", publish_group(desk.clone(), group, publish, desk.busy.clone()));
    }
}

/// Publishes rows, each with a check behind it if its route asks for one, and hands on what the broker said.
async fn publish_group(desk: Arc<Desk>, group: Vec<Outgoing>, publish: Publish, busy: Arc<()>) {
    let publications = group.iter().map(|one| to_exchange(&one.message, &desk.config.name, publish)).collect();
    let published = publish_all(&desk, publications).await;
    if let Some(one) = group.first() {
        desk.fullness.learn(&one.message.required, &published);
    }
    let (mut told, mut checks, mut answers) = (Vec::new(), Vec::new(), Vec::new());
    for (one, outcome) in group.into_iter().zip(published) {
        match outcome {
            Published::Confirmed if has_check(&desk, &one.message) => {
                let (answer, checked) = oneshot::channel();
                let required = one.message.required.clone();
                checks.push(Scheduled::of(&one.message, Attempt::FIRST, required, Done::Answer(answer)));
                answers.push((one.position, one.message.id, checked));
            }
            Published::Unknown => in_doubt(&desk, one.position),
            heard => told.extend(outcome_of(heard).map(|outcome| (one.position, one.message.id, outcome))),
        }
    }
    desk.checks.schedule(checks).await;
    for (position, id, checked) in answers {
        match checked.await {
            Ok(true) => told.push((position, id, Outcome::Confirmed)),
            // Without its check a message is not confirmed; both are published again.
            Ok(false) | Err(_) => in_doubt(&desk, position),
        }
    }
    for (position, ..) in told.iter().filter(|(.., outcome)| *outcome == Outcome::Confirmed) {
        desk.waiting.confirmed(*position);
    }
    desk.known.push(Known { told, _busy: busy }).await;
}

fn has_check(desk: &Desk, message: &Message) -> bool {
    desk.topology.route(&message.exchange, &message.routing_key).has_check()
}

fn in_doubt(desk: &Desk, position: Position) {
    desk.waiting.doubt(position, true, |tries| desk.republish_at(tries));
}

/// What counts; silence does not.
fn outcome_of(published: Published) -> Option<Outcome> {
    match published {
        Published::Confirmed => Some(Outcome::Confirmed),
        Published::Nacked => {
            Some(Outcome::Refused { reason: "the broker refused it: a queue is full, or the broker is in trouble".into() })
        }
        Published::Returned { reason } => Some(Outcome::Refused { reason: format!("no queue took it: {reason}") }),
        Published::Unknown => None,
    }
}

#[cfg(test)]
mod tests;
