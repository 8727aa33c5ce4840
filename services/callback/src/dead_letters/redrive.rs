//! Sends dead letters to their work queues again, some at a time: the order is written down on the delivery's row, then the copy is published,
//! then both that it was sent and that the letter is dealt with are written down, and a check follows.
//!
//! What can fail: MSG DB before the publish (nothing has happened); this process after the order (it stands, the letter stays open: the same
//! command gives the next epoch, and if nobody does, the sweep has upstream send it, or parks it if upstream does not know it); the broker
//! (the order stands, a check has upstream send it); this process or MSG DB after the publish (the letter stays open until its delivery is
//! done; redriven once more, the guard absorbs it).
//!
//! **Invariant:** no copy is published whose epoch is not stored.

use std::collections::BTreeSet;

use bytes::Bytes;
use countersign_boot::{Failpoint, failpoint};
use countersign_delivery::check::Check;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::broker::Delivered;
use countersign_delivery::ports::dead_letters::Closing;
use countersign_delivery::ports::deliveries::{Change, DeliveryKey};
use countersign_delivery::receipt::{Outcome as Signed, Receipt};
use countersign_delivery::redrive::{Dead, Refusal, effect_epoch, may_redrive, next_epoch};
use countersign_delivery::state::{Event, Illegal};
use countersign_delivery::{Delivery, FailReason, Timestamp};
use countersign_wire::arrival::{self, Arrival};
use countersign_wire::dead_letter::{Redrive, redriven_copy};

use super::Opened;
use super::act::{Order, Outcome};
use crate::desk::{Desk, refusal};
use crate::error::Error;
use crate::rearm::{self, NewCheck};

/// What became of each letter; and what came between after the copies were published, if anything.
pub(super) type Redriven = (Vec<Outcome>, Option<Error>);

/// A letter that may be sent again.
struct Wanted<'a> {
    place: usize,
    opened: &'a Opened,
    key: DeliveryKey,
    arrival: Arrival,
    epoch: u32,
}

/// A letter whose order is stored.
struct Ordered<'a> {
    wanted: Wanted<'a>,
    row: Delivery,
    body: Bytes,
}

/// Redrives letters of subscriptions. Answers in order.
///
/// # Errors
/// [`PortError`]: no copy was published.
pub(super) async fn redrive(desk: &Desk, letters: &[Opened], order: &Order) -> Result<Redriven, PortError> {
    let now = desk.deliveries.now().await?;
    let mut outcomes: Vec<Option<Outcome>> = vec![None; letters.len()];
    let wanted = wanted(desk, letters, now, &mut outcomes).await?;
    if order.validate_only {
        for wanted in wanted {
            outcomes[wanted.place] = Some(Outcome::Selected(Some(wanted.epoch)));
        }
        return Ok((in_order(outcomes), None));
    }
    let ordered = store_orders(desk, wanted, order, &mut outcomes).await?;
    if ordered.is_empty() {
        return Ok((in_order(outcomes), None));
    }
    failpoint(Failpoint::CallbackAfterRedriveStored);
    let copies = ordered.iter().map(|ordered| {
        let attempt = ordered.row.attempt();
        let effect_epoch = effect_epoch(&dead(&ordered.wanted), Some(&ordered.row));
        let redrive = Redrive { epoch: attempt.epoch, effect_epoch, by: &order.by, reason: &order.reason, at: now };
        let delivered = Delivered { body: ordered.body.clone(), ..ordered.wanted.opened.delivered.clone() };
        redriven_copy(&delivered, ordered.wanted.key.subscription.to_string(), redrive)
    });
    let published = desk.publish(copies.collect()).await;
    failpoint(Failpoint::CallbackAfterRedriveConfirm);
    let refusals: Vec<Option<String>> = published.iter().map(refusal).collect();
    for (ordered, refused) in ordered.iter().zip(&refusals) {
        let epoch = ordered.row.attempt().epoch;
        outcomes[ordered.wanted.place] = Some(match refused {
            None => Outcome::Redriven(epoch),
            Some(why) => Outcome::NotConfirmed(format!("{why}: the order stands, and upstream is told to send it")),
        });
    }
    let stored = store_sent(desk, &ordered, &refusals, order).await;
    let checked = look_again_soon(desk, &ordered, &refusals).await;
    let unconfirmed = refusals.into_iter().flatten().next().map(|why| Error::NotConfirmed { what: "redriven copy", why });
    Ok((in_order(outcomes), stored.err().map(Error::from).or(checked).or(unconfirmed)))
}

fn in_order(outcomes: Vec<Option<Outcome>>) -> Vec<Outcome> {
    let untold = || Outcome::Refused("it was not come to".into());
    outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(untold)).collect()
}

/// Those that may be sent again; of the others the outcome is written down.
async fn wanted<'a>(
    desk: &Desk,
    letters: &'a [Opened],
    now: Timestamp,
    outcomes: &mut [Option<Outcome>],
) -> Result<Vec<Wanted<'a>>, PortError> {
    let mut readable = Vec::new();
    for (place, opened) in letters.iter().enumerate() {
        match (&opened.letter.subscription, arrival::read(&opened.delivered)) {
            (Some(subscription), Ok(arrival)) => {
                let key = DeliveryKey { message_id: arrival.id, subscription: subscription.clone() };
                readable.push(Wanted { place, opened, key, arrival, epoch: 0 });
            }
            (None, _) => outcomes[place] = Some(refused("what is in quarantine belongs to no subscription".into())),
            (_, Err(error)) => {
                outcomes[place] = Some(refused(format!("it cannot be read ({error}): send the event anew, or discard it")));
            }
        }
    }
    let keys: Vec<DeliveryKey> = readable.iter().map(|one| one.key.clone()).collect();
    let rows = if keys.is_empty() { Vec::new() } else { desk.deliveries.look_up(&keys).await? };
    let mut taken = BTreeSet::new();
    let mut wanted = Vec::with_capacity(readable.len());
    for (mut one, row) in readable.into_iter().zip(rows) {
        let dead = dead(&one);
        match may_redrive(&dead, row.as_ref(), desk.figures.dedup_retention_ms, now) {
            Err(why) => outcomes[one.place] = Some(outcome_of(why)),
            Ok(()) if !taken.insert(one.key.clone()) => {
                outcomes[one.place] = Some(refused("another letter of this message is redriven just now".into()));
            }
            Ok(()) => {
                one.epoch = next_epoch(&dead, row.as_ref());
                wanted.push(one);
            }
        }
    }
    Ok(wanted)
}

fn dead(wanted: &Wanted<'_>) -> Dead {
    let Arrival { fingerprint, attempt, effect_epoch, sent_at, .. } = &wanted.arrival;
    let conflict = wanted.opened.read.reason == FailReason::Conflict.as_str();
    Dead { fingerprint: fingerprint.clone(), attempt: *attempt, sent_at: *sent_at, effect_epoch: *effect_epoch, conflict }
}

fn refused(why: String) -> Outcome {
    Outcome::Refused(why)
}

fn outcome_of(why: Refusal) -> Outcome {
    match why {
        Refusal::AlreadyDone => Outcome::AlreadyDone,
        other => refused(other.to_string()),
    }
}

/// Writes every order down: the letter's own death first, in case that nobody's receipt told of it, then the redrive.
async fn store_orders<'a>(
    desk: &Desk,
    wanted: Vec<Wanted<'a>>,
    order: &Order,
    outcomes: &mut [Option<Outcome>],
) -> Result<Vec<Ordered<'a>>, PortError> {
    let numbers: Vec<u64> = wanted.iter().map(|wanted| wanted.opened.letter.number).collect();
    let bodies = desk.letters.bodies(&numbers).await?;
    let mut here = Vec::with_capacity(wanted.len());
    for (wanted, body) in wanted.into_iter().zip(bodies) {
        match body {
            Some(body) => here.push((wanted, body)),
            None => outcomes[wanted.place] = Some(refused("it has been deleted meanwhile".into())),
        }
    }
    let deaths: Vec<Receipt> = here.iter().map(|(wanted, _)| death(wanted)).collect();
    let (lease_ms, note) = (desk.policy.resend_lease_ms, note(order));
    let changes: Vec<Change<'_>> = here
        .iter()
        .zip(&deaths)
        .flat_map(|((wanted, _), death)| {
            let redrive = Event::Redrive { lease_ms, allow_duplicate: false, note: note.clone() };
            [Event::Signed(death), redrive].map(|event| Change { key: wanted.key.clone(), event })
        })
        .collect();
    let states = if changes.is_empty() { Vec::new() } else { desk.deliveries.apply(&changes).await? };
    let mut ordered = Vec::with_capacity(here.len());
    for ((wanted, body), state) in here.into_iter().zip(states.into_iter().skip(1).step_by(2)) {
        match state {
            Ok(Some(row)) => ordered.push(Ordered { wanted, row, body }),
            Err(Illegal::AlreadyDone) => outcomes[wanted.place] = Some(Outcome::AlreadyDone),
            Err(illegal) => outcomes[wanted.place] = Some(refused(illegal.to_string())),
            Ok(None) => outcomes[wanted.place] = Some(refused(Illegal::Absent.to_string())),
        }
    }
    Ok(ordered)
}

/// The receipt that the letter stands for. Applied to a row that knows better it says nothing new.
fn death(wanted: &Wanted<'_>) -> Receipt {
    let Wanted { key, arrival, opened, .. } = wanted;
    let reason = FailReason::parse(&opened.read.reason).unwrap_or(FailReason::DeadLettered);
    Receipt {
        message_id: key.message_id,
        subscription: key.subscription.clone(),
        upstream: arrival.upstream.clone(),
        fingerprint: arrival.fingerprint.clone(),
        attempt: arrival.attempt,
        sent_at: arrival.sent_at,
        outcome: Signed::Failed { reason, detail: opened.read.detail.clone() },
        trace: None,
    }
}

fn note(order: &Order) -> String {
    let because = if order.reason.is_empty() { String::new() } else { format!(": {}", order.reason) };
    format!("from its dead letter by {}{because}", if order.by.is_empty() { "an operator" } else { &order.by })
}

/// Writes down what was sent.
async fn store_sent(desk: &Desk, ordered: &[Ordered<'_>], refusals: &[Option<String>], order: &Order) -> Result<(), PortError> {
    let sent = || ordered.iter().zip(refusals).filter(|(_, refused)| refused.is_none()).map(|(ordered, _)| ordered);
    let answered = sent().map(|ordered| Change {
        key: ordered.wanted.key.clone(),
        event: Event::ResendAnswered { attempt: ordered.row.attempt() },
    });
    let answered: Vec<Change<'_>> = answered.collect();
    if answered.is_empty() {
        return Ok(());
    }
    // Who has been faster (a receipt, another order) is right.
    desk.deliveries.apply(&answered).await?;
    let closed: Vec<(u64, Closing)> = sent()
        .map(|ordered| {
            let epoch = Some(ordered.row.attempt().epoch);
            (ordered.wanted.opened.letter.number, Closing { by: order.by.clone(), reason: order.reason.clone(), epoch })
        })
        .collect();
    desk.letters.close(&closed).await
}

/// A check for each: of what was sent, so that a loss is found; of what was not, so that upstream is told. If it cannot be published the sweep
/// does it later.
async fn look_again_soon(desk: &Desk, ordered: &[Ordered<'_>], refusals: &[Option<String>]) -> Option<Error> {
    let queue = desk.topology.check_tier_queue(desk.topology.recheck_delay_ms(0));
    let new = ordered.iter().zip(refusals).map(|(Ordered { wanted, row, .. }, refused)| NewCheck {
        queue: queue.clone(),
        upstream: row.facts.upstream.clone(),
        check: Check {
            message_id: wanted.key.message_id,
            fingerprint: row.facts.fingerprint.clone(),
            attempt: if refused.is_none() { row.attempt() } else { row.attempt_to_check() },
            waits: 1,
            sent_at: row.facts.sent_at,
            required: vec![wanted.key.subscription.clone()],
            marks: Vec::new(),
            trace: wanted.arrival.trace.clone(),
        },
    });
    rearm::publish(desk, new.collect()).await.why
}
