//! A message that would go to a full queue: refused, unless it was accepted before.
//!
//! A repeat under a known idempotency key is answered as the first time, full or not: its caller must not take for refused what is going to
//! be processed. That costs one read by an index, which is less than the INSERT it stands for. A repeat that comes while the first is
//! being committed is refused, and the first one's caller has the answer.

use std::time::Duration;

use countersign_delivery::{Message, SubscriptionName, Topology};
use countersign_telemetry::with_sources;
use futures::{StreamExt as _, stream};
use tokio::time::{Instant, timeout_at};

use crate::desk::Desk;
use crate::lookup::{By, Found, find};
use crate::refusal::Refusal;
use crate::send::{Accepted, Outcome};

/// Keys of one batch that are looked up at a time.
const AT_A_TIME: usize = 8;

/// The answers to messages for full queues, in order.
pub(crate) async fn answers(desk: &Desk, messages: Vec<Message>, by: Instant) -> Vec<Outcome> {
    stream::iter(messages).map(|message| answer(desk, message, by)).buffered(AT_A_TIME).collect().await
}

/// The answer to one of them.
pub(crate) async fn answer(desk: &Desk, message: Message, by: Instant) -> Outcome {
    let Some(key) = message.idempotency_key.clone() else { return Outcome::Refused(full(desk, &message)) };
    let found = match timeout_at(by, find(desk, &By::Key(key))).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) if !error.is_transient() => return Outcome::Refused(Refusal::Broken(with_sources(&error))),
        Ok(Err(error)) => return Outcome::Refused(Refusal::Unavailable(with_sources(&error))),
        Err(_) => {
            let words = format!("the database has not answered within {} ms", desk.config.commit_wait_ms);
            return Outcome::Refused(Refusal::Unavailable(words));
        }
    };
    match found {
        Some(found) => repeat(&message, found),
        None => Outcome::Refused(full(desk, &message)),
    }
}

/// The answer to a message whose key is known.
fn repeat(message: &Message, Found { stored, settled, .. }: Found) -> Outcome {
    if stored.message.fingerprint != message.fingerprint {
        let key = message.idempotency_key.as_ref().map_or_else(String::new, |key| key.as_str().to_owned());
        return Outcome::Refused(Refusal::Conflict { key, id: stored.message.id });
    }
    let accepted = Accepted { id: stored.message.id, fingerprint: stored.message.fingerprint, duplicate: true };
    if settled { Outcome::Confirmed(accepted) } else { Outcome::Committed(accepted) }
}

fn full(desk: &Desk, message: &Message) -> Refusal {
    let retry_ms = desk.config.retry_after_ms.max(millis(super::MARK) / 2);
    Refusal::Full { subscriptions: described(&desk.topology, &message.required), retry_ms }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The subscriptions, each with the bound that the topology gives its work queue.
fn described(topology: &Topology, set: &[SubscriptionName]) -> String {
    let bound = |name: &SubscriptionName| topology.subscriptions.iter().find(|one| one.name == *name)?.max_length;
    let described = set.iter().map(|name| match bound(name) {
        Some(length) => format!("{name} (max_length {length})"),
        None => name.to_string(),
    });
    described.collect::<Vec<_>>().join(", ")
}
