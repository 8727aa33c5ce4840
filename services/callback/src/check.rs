//! Step 6: is it signed for? One look-up for all that came due, a verdict by evidence for each, and only then deeds.
//!
//! What can fail: MSG DB (nothing is acked, everything is looked at again); the broker (what could not be armed again stays unacked);
//! upstream (see `command_resend`); this process, anywhere (the broker delivers the checks again, and what was written decides anew:
//! signed is signed, an open order is repeated as the same try, an answered one makes this check stale). A check that is lost is
//! covered by the sweep, and by reconciliation.

mod look;
mod verdict;

use countersign_boot::{Failpoint, failpoint};
use countersign_delivery::check::{Check, Mark};
use countersign_delivery::ports::broker::Delivered;
use countersign_delivery::ports::deliveries::{Change, DeliveryKey};
use countersign_delivery::state::{Event, Illegal, ParkReason};
use countersign_telemetry::invariants;

use crate::command_resend::{self, Written, command_resend, tell_parked};
use crate::desk::Desk;
use crate::error::Error;
use crate::probe;
use crate::quarantine::set_aside;
use crate::rearm::{self, NewCheck};
use look::{Entry, read};
use verdict::{Kept, Plan};
pub(crate) use verdict::{WORDS, is_expired};

/// What became of deliveries of the queue of due checks.
#[derive(Debug)]
pub enum Outcome {
    /// Verified, ordered, parked, or confirmed in a new batch: ack all of them.
    Checked,
    /// Ack all but those at these positions; come again with them.
    Held {
        /// Indexes into what was given, ascending.
        positions: Vec<usize>,
        /// What is in the way.
        why: Error,
    },
}

/// Judges the checks that were delivered, and acts. The same deliveries may be given again.
pub async fn check(desk: &Desk, delivered: &[Delivered]) -> Outcome {
    failpoint(Failpoint::CallbackCheckAfterDelivery);
    let (entries, unreadable) = read(desk, delivered);
    desk.seen.note(entries.iter().map(|entry| &entry.upstream)).await;
    let judged = match look::gather(desk, &entries).await {
        Ok(look) => act(desk, verdict::judge(desk, &entries, &look), &entries).await,
        Err(error) => Err(error.into()),
    };
    let (mut held, why) = match judged {
        Ok(done) => done,
        Err(error) => (entries.iter().map(|entry| entry.position).collect(), Some(error)),
    };
    let (not_set_aside, refusal) = set_aside(desk, &unreadable).await;
    held.extend(not_set_aside);
    held.sort_unstable();
    held.dedup();
    failpoint(Failpoint::CallbackAfterRearm);
    match why.or(refusal) {
        Some(why) if !held.is_empty() => Outcome::Held { positions: held, why },
        _ => Outcome::Checked,
    }
}

/// States first, then calls, then new checks. Gives back what could not be armed again.
async fn act(desk: &Desk, mut plan: Plan, entries: &[Entry]) -> Result<(Vec<usize>, Option<Error>), Error> {
    park(desk, &mut plan).await?;
    for (lane, after) in std::mem::take(&mut plan.demands) {
        desk.demands.note(lane, after);
    }
    if let Err(error) = probe::send_due(desk).await {
        tracing::warn!(%error, "probes could not be planned; the next look or the timer does it");
    }
    resend(desk, &mut plan, entries).await?;
    Ok(arm_again(desk, plan, entries).await)
}

/// Leaves the hopeless for a human; who lost the race looks again.
async fn park(desk: &Desk, plan: &mut Plan) -> Result<(), Error> {
    let parks = std::mem::take(&mut plan.parks);
    if parks.is_empty() {
        return Ok(());
    }
    let changes: Vec<Change<'_>> = parks
        .iter()
        .map(|park| Change {
            key: park.key.clone(),
            event: Event::Park { facts: park.facts.clone(), attempt: park.attempt, reason: park.reason.clone() },
        })
        .collect();
    let states = desk.deliveries.apply(&changes).await?;
    for (park, state) in parks.into_iter().zip(states) {
        match state {
            Ok(_) => {
                let (id, subscription) = (park.key.message_id, &park.key.subscription);
                tracing::warn!(%id, %subscription, attempt = park.attempt.number, reason = park.reason.as_str(), "parked");
                tell_parked(&park.reason);
                if park.reason == ParkReason::Conflict {
                    invariants::violated(
                        "I8",
                        &format!("{subscription} has processed another content under the id of message {id}"),
                    );
                }
            }
            Err(Illegal::AlreadyDone | Illegal::Parked | Illegal::Discarded) => {}
            Err(_) => plan.keep[park.entry].push(Kept::plain(park.key.subscription)),
        }
    }
    Ok(())
}

/// Has upstream send again what is lost; what could not be ordered or was not answered is looked at again, at the same try.
async fn resend(desk: &Desk, plan: &mut Plan, entries: &[Entry]) -> Result<(), Error> {
    let orders = std::mem::take(&mut plan.orders);
    if orders.is_empty() {
        return Ok(());
    }
    let (places, orders): (Vec<usize>, Vec<_>) = orders.into_iter().unzip();
    let wanted: Vec<_> = orders.iter().map(|order| order.wanted.clone()).collect();
    let outcomes = command_resend(desk, orders, Written::NotYet).await?;
    for ((place, wanted), outcomes) in places.into_iter().zip(wanted).zip(outcomes) {
        for (wanted, outcome) in wanted.into_iter().zip(outcomes) {
            if let command_resend::Outcome::Again(_) = outcome {
                let mark = entries[place].check.mark(&wanted.subscription).cloned();
                plan.keep[place].push(Kept { mark, soon: outcome.is_crowded(), ..Kept::plain(wanted.subscription) });
            }
        }
    }
    Ok(())
}

/// Publishes new checks for what still needs a look, and puts off the sweep of their rows. Gives back whose new check is not confirmed.
async fn arm_again(desk: &Desk, plan: Plan, entries: &[Entry]) -> (Vec<usize>, Option<Error>) {
    let mut places = Vec::new();
    let mut new = Vec::new();
    let mut put_off = Vec::new();
    for (place, kept) in plan.keep.into_iter().enumerate().filter(|(_, kept)| !kept.is_empty()) {
        let entry = &entries[place];
        // What only found others first is none the older for it.
        let soon = kept.iter().all(|kept| kept.soon);
        let delay_ms = desk.topology.recheck_delay_ms(if soon { 0 } else { entry.check.waits });
        let until = plan.now.plus_millis(delay_ms);
        let due = kept.iter().filter(|kept| kept.due_at.is_some_and(|due| due <= until));
        put_off.push(due.map(|kept| key(&entry.check, kept)).collect::<Vec<_>>());
        new.push(NewCheck {
            queue: desk.topology.check_tier_queue(delay_ms),
            upstream: entry.upstream.clone(),
            check: again(&entry.check, kept, u32::from(!soon)),
        });
        places.push(entry.position);
    }
    let armed = rearm::publish(desk, new).await;
    let confirmed = put_off.into_iter().zip(&armed.confirmed).filter(|(_, confirmed)| **confirmed);
    put_off_sweep(desk, confirmed.flat_map(|(keys, _)| keys)).await;
    let held = places.into_iter().zip(&armed.confirmed).filter_map(|(position, confirmed)| (!confirmed).then_some(position));
    (held.collect(), armed.why)
}

fn key(check: &Check, kept: &Kept) -> DeliveryKey {
    DeliveryKey { message_id: check.message_id, subscription: kept.subscription.clone() }
}

/// The same check once more, for those who still need a look: same try, so many waits more, the marks of this look.
fn again(check: &Check, kept: Vec<Kept>, waits: u32) -> Check {
    let marks: Vec<Mark> = kept.iter().filter_map(|kept| kept.mark.clone()).collect();
    let required = kept.into_iter().map(|kept| kept.subscription).collect();
    Check { waits: check.waits.saturating_add(waits), required, marks, ..check.clone() }
}

/// A row whose next look is on its way is not overdue. Without this each sweep would add one more check to every row that waits long.
async fn put_off_sweep(desk: &Desk, keys: impl Iterator<Item = DeliveryKey>) {
    let changes: Vec<Change<'_>> = keys.map(|key| Change { key, event: Event::Swept }).collect();
    if changes.is_empty() {
        return;
    }
    if let Err(error) = desk.deliveries.apply(&changes).await {
        tracing::debug!(%error, "the sweep could not be put off; it costs an extra check");
    }
}
