//! What arrives and cannot be read, or was given up on by the broker: a copy is kept, whoever can be told is told.

use countersign_delivery::FailReason;
use countersign_delivery::ports::broker::Delivered;
use countersign_delivery::receipt::{Outcome as Signed, Receipt};
use countersign_wire::arrival;

use super::{Outcome, Reception, brief};

/// Why a delivery is not handled, before any claim.
#[derive(Debug)]
pub enum Refused {
    /// It goes to the dead-letter queue and is signed as failed.
    Dead {
        /// About whom; its outcome is replaced.
        receipt: Box<Receipt>,
        /// Why.
        reason: FailReason,
        /// For a human.
        detail: String,
    },
    /// Nobody can be told: it goes to quarantine.
    Quarantined {
        /// For a human.
        detail: String,
    },
}

/// Keeps a copy, confirmed; signs, confirmed. Then the delivery may be acked.
pub async fn refuse(reception: &Reception, delivered: &Delivered, refused: Refused) -> Outcome {
    let (queue, reason, detail, receipt) = match refused {
        Refused::Dead { receipt, reason, detail } => (reception.subscription.dead_queue(), reason, detail, Some(receipt)),
        Refused::Quarantined { detail } => (reception.quarantine.clone(), FailReason::Undecodable, detail, None),
    };
    let detail = brief(&detail);
    tracing::error!(%queue, subscription = %reception.subscription.name, reason = reason.as_str(), detail, "a delivery is refused");
    let mut copy = arrival::dead_copy(delivered, queue, reception.death(reason, detail));
    if copy.properties.message_id.is_none() {
        copy.properties.message_id = Some(format!("unnamed/{}", reception.ids.uuid()));
    }
    reception.copies.put(copy).await;
    let Some(receipt) = receipt else { return Outcome::Failed(reason) };
    let receipt = Receipt { outcome: Signed::Failed { reason, detail: detail.to_owned() }, ..*receipt };
    if reception.signer.sign(receipt).await { Outcome::Failed(reason) } else { Outcome::GivenUp }
}
