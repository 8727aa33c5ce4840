//! What the broker itself gives up on (delivery limit): it lands in `<subscription>.limit`, is marked, moved to `<subscription>.dead` and
//! signed as failed, so that callback learns of it.
//!
//! The broker cannot sign. If it dead-lettered straight into `.dead`, a reader of that queue would have to hold every message that has
//! been signed already; so its own dead letters come by another queue, which this consumer empties.

use std::sync::Arc;

use countersign_boot::Stop;
use countersign_delivery::FailReason;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::broker::{Consumers, Delivered, HeaderValue, Settlement};
use countersign_delivery::receipt::{Outcome as Signed, Receipt};

use crate::arrived::{self, Kind};
use crate::consume::Lane;
use crate::receive::{Outcome, Reception, Refused, refuse};

/// Most dead letters held at a time; there are few.
const PREFETCH: u16 = 64;
/// What the broker calls the reason of a message's first death, and where the message had been published.
const REASON: &str = "x-first-death-reason";
const EXCHANGE: &str = "x-first-death-exchange";
const ROUTING_KEY: &str = "x-first-death-routing-key";

/// Moves and signs until soft stop.
///
/// # Errors
/// [`PortError`] when the queue can never be consumed.
pub async fn run(lane: Arc<Lane>, consumers: Arc<dyn Consumers>, stop: Stop) -> Result<(), PortError> {
    let reception = &lane.reception;
    let mut consumer = consumers.consume(&reception.subscription.limit_queue(), PREFETCH).await?;
    let settler = consumer.settler();
    loop {
        let batch = tokio::select! {
            () = stop.soft() => return Ok(()),
            batch = consumer.next(PREFETCH.into()) => batch,
        };
        let moved = stop.hard_token().run_until_cancelled_owned(async {
            for delivered in batch {
                if move_one(reception, &delivered).await != Outcome::GivenUp {
                    settler.settle(&[delivered.handle], Settlement::Ack).await;
                }
            }
        });
        if moved.await.is_none() {
            return Ok(());
        }
    }
}

/// One dead letter: a copy in `.dead`, confirmed, and a receipt, confirmed. A dead probe is dropped: callback replaces it.
pub async fn move_one(reception: &Reception, delivered: &Delivered) -> Outcome {
    let reason = FailReason::DeadLettered;
    let header = |name: &str| delivered.properties.headers.get(name).and_then(HeaderValue::as_text);
    let words = header(REASON).unwrap_or("delivery_limit");
    // Its copy says where it was published, not that it came by the limit queue.
    let delivered = &Delivered {
        exchange: header(EXCHANGE).unwrap_or(&delivered.exchange).to_owned(),
        routing_key: header(ROUTING_KEY).unwrap_or(&delivered.routing_key).to_owned(),
        ..delivered.clone()
    };
    let detail = format!("the broker gave up on it: {words}");
    let receipt = match arrived::read(delivered, &reception.subscription.name) {
        Kind::Probe(_) => return Outcome::Failed(reason),
        Kind::Message(arrival) => Receipt {
            message_id: arrival.id,
            subscription: reception.subscription.name.clone(),
            upstream: arrival.upstream,
            fingerprint: arrival.fingerprint,
            attempt: arrival.attempt,
            sent_at: arrival.sent_at,
            outcome: Signed::Failed { reason, detail: detail.clone() },
            trace: arrival.trace,
        },
        Kind::Undecodable(receipt, _) => *receipt,
        Kind::Unknown(error) => {
            return refuse(reception, delivered, Refused::Quarantined { detail: format!("{detail}; {error}") }).await;
        }
    };
    refuse(reception, delivered, Refused::Dead { receipt: Box::new(receipt), reason, detail }).await
}
