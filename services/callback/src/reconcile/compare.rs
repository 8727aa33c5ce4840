//! Message by message, in the minutes that differ; and a check for what is missing.

use std::collections::BTreeMap;

use countersign_delivery::check::Check;
use countersign_delivery::message::Attempt;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::deliveries::DeliveryKey;
use countersign_delivery::reconcile::{Line, Standing, Window, minute_of, standing};
use countersign_delivery::{SubscriptionName, Timestamp, UpstreamName};

use super::sums::Books;
use super::witness::Witness;
use super::{Failure, Reconciler, Round};
use crate::rearm::{self, NewCheck};
use crate::upstreams::digests::Stored;

/// Neighbouring minutes that are listed as one window at most, milliseconds: as many as upstream answers at once.
const LISTED_MS: u64 = 86_400_000;
/// Missing messages that are looked up, and checked, at once.
const CHUNK: usize = 5_000;

/// A stored message that nobody has said a word about.
pub(super) struct Missing {
    subscription: SubscriptionName,
    stored: Stored,
}

impl Missing {
    fn key(&self) -> DeliveryKey {
        DeliveryKey { message_id: self.stored.message_id, subscription: self.subscription.clone() }
    }

    /// Due at once, for this subscription alone, never looked at.
    fn check(&self) -> Check {
        Check {
            message_id: self.stored.message_id,
            fingerprint: self.stored.fingerprint.clone(),
            attempt: Attempt::FIRST,
            waits: 0,
            sent_at: self.stored.sent_at,
            required: vec![self.subscription.clone()],
            marks: Vec::new(),
            trace: None,
        }
    }
}

/// Looks every message up whose minute differs and whose subscription has a witness; gives back what is missing. What is missing beyond
/// `room` is counted and left to the next round.
pub(super) async fn messages(
    reconciler: &Reconciler,
    address: &str,
    books: &mut Books,
    witnesses: &BTreeMap<SubscriptionName, Witness>,
    room: usize,
) -> Result<Vec<Missing>, Failure> {
    let mut missing = Vec::new();
    for (subscription, minutes) in std::mem::take(&mut books.differ) {
        let witness = witnesses.get(&subscription).copied().unwrap_or(Witness::Silent);
        let line = books.lines.entry(subscription.clone()).or_insert_with(|| Line::new(subscription.clone()));
        let (covered, skipped): (Vec<_>, Vec<_>) = minutes.into_iter().partition(|(minute, _)| witness.covers(*minute));
        if !skipped.is_empty() {
            for (minute, count) in &skipped {
                line.skip(*minute, *count);
            }
            books.why.push(witness.words(&subscription));
        }
        let minutes: Vec<Timestamp> = covered.into_iter().map(|(minute, _)| minute).collect();
        line.minutes_compared += u64::try_from(minutes.len()).unwrap_or(u64::MAX);
        for window in Window::joined(&minutes, LISTED_MS) {
            list(reconciler, address, window, &subscription, line, &mut missing, room).await?;
        }
    }
    Ok(missing)
}

/// One window of one subscription, page by page.
async fn list(
    reconciler: &Reconciler,
    address: &str,
    window: Window,
    subscription: &SubscriptionName,
    line: &mut Line,
    missing: &mut Vec<Missing>,
    room: usize,
) -> Result<(), Failure> {
    let mut page_token = String::new();
    loop {
        let page = reconciler.digests.list(address, window, subscription, page_token).await?;
        let listed: Vec<Missing> =
            page.messages.into_iter().map(|stored| Missing { subscription: subscription.clone(), stored }).collect();
        for (one, standing) in look_up(reconciler, listed).await? {
            if standing == Standing::Missing && missing.len() < room {
                missing.push(one);
            } else {
                count(line, &one.stored, standing);
            }
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(());
        }
    }
}

fn count(line: &mut Line, stored: &Stored, standing: Standing) {
    line.count(minute_of(stored.message_id.minted_at()), stored.message_id, standing);
}

async fn look_up(reconciler: &Reconciler, listed: Vec<Missing>) -> Result<Vec<(Missing, Standing)>, PortError> {
    let keys: Vec<DeliveryKey> = listed.iter().map(Missing::key).collect();
    let rows = reconciler.desk.deliveries.look_up(&keys).await?;
    let standings = listed.iter().zip(rows).map(|(one, row)| standing(row.as_ref(), &one.stored.fingerprint)).collect::<Vec<_>>();
    Ok(listed.into_iter().zip(standings).collect())
}

/// Looks once more at what is missing (its receipt may have been on its way), counts it, and publishes a check for what still is.
pub(super) async fn settle(
    reconciler: &Reconciler,
    upstream: &UpstreamName,
    missing: Vec<Missing>,
    books: &mut Books,
    validate_only: bool,
    round: &mut Round,
) -> Result<(), Failure> {
    let (mut rest, mut checked) = (missing.into_iter(), 0_usize);
    loop {
        let chunk: Vec<Missing> = rest.by_ref().take(CHUNK).collect();
        if chunk.is_empty() {
            break;
        }
        let mut still = Vec::new();
        for (one, standing) in look_up(reconciler, chunk).await? {
            if let Some(line) = books.lines.get_mut(&one.subscription) {
                count(line, &one.stored, standing);
            }
            if standing == Standing::Missing {
                still.push(one);
            }
        }
        if !validate_only && !still.is_empty() {
            checked += still.len();
            publish(reconciler, upstream, &still, books).await;
        }
    }
    round.checked += checked;
    let left = books.lines.values().map(|line| line.missing).sum::<u64>().saturating_sub(checked as u64);
    if left > 0 && !validate_only {
        books.why.push(format!("{left} of what is missing is left to the next round"));
    }
    Ok(())
}

/// Into the queue of due checks. What is not confirmed is missing in the next round, too.
async fn publish(reconciler: &Reconciler, upstream: &UpstreamName, missing: &[Missing], books: &mut Books) {
    let queue = reconciler.desk.topology.checks_queue();
    let new = missing.iter().map(|one| NewCheck { queue: queue.clone(), upstream: upstream.clone(), check: one.check() });
    let armed = rearm::publish(&reconciler.desk, new.collect()).await;
    if let Some(why) = armed.why {
        books.why.push(format!("not every missing message could be checked ({why}): the next round does it"));
    }
}
