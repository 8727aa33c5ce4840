//! Where callback puts what it cannot read: a confirmed copy with the reason, before the original is acked.

use countersign_delivery::FailReason;
use countersign_delivery::ports::broker::Delivered;
use countersign_wire::arrival::{Death, dead_copy};

use crate::desk::{Desk, refusal};
use crate::error::Error;

/// Who writes the death down.
const BY: &str = "callback";

/// One delivery to be set aside.
pub(crate) struct Unreadable<'a> {
    /// Where it stands in what was taken from the queue.
    pub position: usize,
    /// The delivery itself.
    pub delivered: &'a Delivered,
    /// What is wrong with it.
    pub why: String,
}

/// Publishes a copy of each to the quarantine queue. Gives back the positions whose copy was not confirmed, and the first reason.
pub(crate) async fn set_aside(desk: &Desk, unreadable: &[Unreadable<'_>]) -> (Vec<usize>, Option<Error>) {
    let at = desk.clock.now();
    let copies = unreadable.iter().map(|item| {
        tracing::warn!(why = %item.why, bytes = item.delivered.body.len(), "a delivery cannot be read and goes to quarantine");
        let queue = desk.topology.quarantine_queue();
        let mut copy = dead_copy(item.delivered, queue, Death { reason: FailReason::Undecodable, detail: &item.why, at, by: BY });
        // Returns are matched by this id; whoever wrote the original may have used one twice.
        copy.properties.message_id = Some(format!("quarantine/{}", desk.ids.uuid()));
        copy
    });
    let outcomes = desk.publish(copies.collect()).await;
    let refused = unreadable.iter().zip(&outcomes).filter_map(|(item, outcome)| Some((item.position, refusal(outcome)?)));
    let (positions, reasons): (Vec<_>, Vec<_>) = refused.unzip();
    let why = reasons.into_iter().next().map(|why| Error::NotConfirmed { what: "quarantined copy", why });
    (positions, why)
}
