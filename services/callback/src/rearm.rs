//! New checks: in batches of one upstream and one delay, each batch confirmed before anything older is let go.
//!
//! **Invariant:** a check is published anew, never put back: a batch is never held by the entry that waits longest.

use std::collections::BTreeMap;

use countersign_delivery::UpstreamName;
use countersign_delivery::check::{Check, CheckBatch};
use countersign_wire::{checks, publication};

use crate::desk::{Desk, refusal};
use crate::error::Error;

/// One check on its way to a queue.
pub(crate) struct NewCheck {
    /// A tier, or the queue of due checks.
    pub queue: String,
    /// Whose message.
    pub upstream: UpstreamName,
    /// The check.
    pub check: Check,
}

/// What became of new checks.
pub(crate) struct Armed {
    /// In the order given: whether the broker has it.
    pub confirmed: Vec<bool>,
    /// The first refusal, if any.
    pub why: Option<Error>,
}

/// Publishes checks, grouped by queue and upstream, in batches of `max_batch` at most, and awaits the confirms.
pub(crate) async fn publish(desk: &Desk, new: Vec<NewCheck>) -> Armed {
    let mut confirmed = vec![false; new.len()];
    let mut groups: BTreeMap<(String, UpstreamName), Vec<(usize, Check)>> = BTreeMap::new();
    for (at, NewCheck { queue, upstream, check }) in new.into_iter().enumerate() {
        groups.entry((queue, upstream)).or_default().push((at, check));
    }
    let mut members = Vec::new();
    let mut publications = Vec::new();
    for ((queue, upstream), mut rest) in groups {
        while !rest.is_empty() {
            let taken = rest.drain(..rest.len().min(desk.figures.max_batch.max(1)));
            let (places, checks): (Vec<_>, Vec<_>) = taken.unzip();
            let batch = CheckBatch { upstream: upstream.clone(), checks };
            let id = format!("check/{}", desk.ids.uuid());
            publications.push(publication::to_queue(queue.clone(), id, checks::encode(&batch)));
            members.push(places);
        }
    }
    let outcomes = desk.publish(publications).await;
    let mut why = None;
    for (places, outcome) in members.into_iter().zip(&outcomes) {
        match refusal(outcome) {
            None => places.into_iter().for_each(|at| confirmed[at] = true),
            Some(refused) => why = why.or(Some(Error::NotConfirmed { what: "check", why: refused })),
        }
    }
    Armed { confirmed, why }
}
