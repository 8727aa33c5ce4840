//! Publishing messages, the first time or again, and what follows from each outcome.
//!
//! Rows of mode `outbox` go their own way ([`crate::outbox`]). A confirmed message goes on to its check. Everything else (nacked,
//! returned, unknown) stays unsettled and is published again from the table, with growing pauses. Bodies are only kept while they are in
//! flight, within `max_in_flight_bytes`.

use std::sync::Arc;

use countersign_boot::{Failpoint, failpoint};
use countersign_delivery::ports::broker::{Publication, Published};
use countersign_delivery::ports::messages::Numbered;
use countersign_delivery::topology::Mode;
use countersign_delivery::{Message, Seq};
use countersign_wire::publication::{Publish, to_exchange};
use tokio::sync::OwnedSemaphorePermit;

use crate::check_queue::{Done, Scheduled};
use crate::counters;
use crate::desk::Desk;
use crate::ledger::{Again, Ledger, What};
use crate::outbox;
use crate::source::rebuild::publishable;

/// One message on its way.
#[derive(Debug)]
struct Outgoing {
    seq: Seq,
    message: Message,
    /// Held until its outcome is known.
    _room: OwnedSemaphorePermit,
}

/// Publishes what was committed a moment ago.
pub(crate) fn first(desk: &Arc<Desk>, ledger: &Arc<Ledger>, rows: Vec<Numbered>) {
    counters::stored(rows.iter().map(|row| row.message.mode));
    let rows = rows.into_iter().map(|Numbered { seq, message }| (seq, message)).collect();
    let rows = verified(desk, ledger, rows, Publish::FIRST);
    for group in start(desk, ledger, rows, Publish::FIRST) {
        desk.tasks.spawn("publish", group);
    }
}

/// Publishes messages that may have been published before, with the bodies at hand.
pub(crate) fn again(desk: &Arc<Desk>, ledger: &Arc<Ledger>, rows: Vec<(Seq, Message)>) {
    let rows = verified(desk, ledger, rows, Publish::AGAIN);
    for group in start(desk, ledger, rows, Publish::AGAIN) {
        desk.tasks.spawn("publish again", group);
    }
}

/// Publishes rows of the table again, those without a body as their sources give it, and waits for the outcomes.
pub(crate) async fn again_and_wait(desk: &Arc<Desk>, ledger: &Arc<Ledger>, rows: Vec<(Seq, Message)>) {
    let rows = publishable(desk, ledger, rows).await;
    futures::future::join_all(start(desk, ledger, rows, Publish::AGAIN)).await;
}

/// Hands the rows of mode `outbox` over, and returns the others.
fn verified(desk: &Arc<Desk>, ledger: &Ledger, rows: Vec<(Seq, Message)>, publish: Publish) -> Vec<(Seq, Message)> {
    let (outbox, verified) = rows.into_iter().partition(|(_, message)| message.mode == Mode::Outbox);
    outbox::take_over(desk, ledger, outbox, publish);
    verified
}

/// Splits into what goes out now, by required set, and what has to wait: no broker, or no room.
fn start(
    desk: &Arc<Desk>,
    ledger: &Arc<Ledger>,
    rows: Vec<(Seq, Message)>,
    publish: Publish,
) -> Vec<impl Future<Output = ()> + Send + 'static> {
    let up = desk.publisher.is_up();
    let mut outgoing = Vec::with_capacity(rows.len());
    for (seq, message) in rows {
        let room = if up { desk.in_flight.take(message.body.len()) } else { None };
        match room {
            Some(room) => outgoing.push(Outgoing { seq, message, _room: room }),
            None => ledger.defer(seq, again_of(&message), up, |tries| desk.republish_at(tries)),
        }
    }
    let groups = by_required(outgoing, |one| &one.message);
    groups.into_iter().map(|group| publish_group(desk.clone(), ledger.clone(), group, publish)).collect()
}

/// One group for each required set, because messages for the same queues share their fate: a queue without a leader holds up nobody else.
pub(crate) fn by_required<T>(mut all: Vec<T>, message: fn(&T) -> &Message) -> Vec<Vec<T>> {
    all.sort_by(|one, other| message(one).required.cmp(&message(other).required));
    let mut groups = Vec::new();
    while let Some(first) = all.first() {
        let same = all.partition_point(|one| message(one).required <= message(first).required);
        groups.push(all.drain(..same).collect());
    }
    groups
}

async fn publish_group(desk: Arc<Desk>, ledger: Arc<Ledger>, group: Vec<Outgoing>, publish: Publish) {
    let publications = group.iter().map(|one| to_exchange(&one.message, &desk.config.name, publish)).collect();
    let outcomes = publish_all(&desk, publications).await;
    if outcomes.contains(&Published::Confirmed) {
        failpoint(Failpoint::UpstreamAfterMessageConfirm);
    }
    if let Some(one) = group.first() {
        desk.fullness.learn(&one.message.required, &outcomes);
    }
    let mut scheduled = Vec::with_capacity(group.len());
    for (one, outcome) in group.into_iter().zip(outcomes) {
        if outcome == Published::Confirmed {
            let done = Done::Settle(ledger.clone(), one.seq);
            scheduled.push(Scheduled::of(&one.message, publish.attempt, one.message.required.clone(), done));
        } else {
            ledger.defer(one.seq, again_of(&one.message), true, |tries| desk.republish_at(tries));
        }
    }
    desk.checks.schedule(scheduled).await;
}

/// Publishes messages and awaits their outcomes.
pub(crate) async fn publish_all(desk: &Desk, publications: Vec<Publication>) -> Vec<Published> {
    let publishing = desk.publisher.publish(publications);
    tokio::pin!(publishing);
    let early = futures::poll!(publishing.as_mut());
    // Lets the publishing task take it over before the failpoint.
    tokio::task::yield_now().await;
    failpoint(Failpoint::UpstreamAfterMessagePublish);
    let outcomes = match early {
        std::task::Poll::Ready(outcomes) => outcomes,
        std::task::Poll::Pending => publishing.await,
    };
    note_unconfirmed("message", &outcomes);
    outcomes
}

/// One line in the log for what the broker did not confirm.
pub(crate) fn note_unconfirmed(kind: &'static str, outcomes: &[Published]) {
    let of = |wanted: fn(&Published) -> bool| outcomes.iter().filter(|outcome| wanted(outcome)).count();
    let nacked = of(|outcome| *outcome == Published::Nacked);
    let returned = of(|outcome| matches!(outcome, Published::Returned { .. }));
    let unknown = of(|outcome| *outcome == Published::Unknown);
    if nacked + returned + unknown > 0 {
        tracing::warn!(kind, nacked, returned, unknown, reason = reason(outcomes), "not confirmed: published again later");
    }
}

fn reason(outcomes: &[Published]) -> &str {
    let mut reasons = outcomes.iter().filter_map(|outcome| match outcome {
        Published::Returned { reason } => Some(reason.as_str()),
        _ => None,
    });
    reasons.next_back().unwrap_or_default()
}

fn again_of(message: &Message) -> Again {
    Again { what: What::Message, bytes: message.body.len() }
}
