//! Reading stored messages back.

use countersign_delivery::ports::PortError;
use countersign_delivery::{IdempotencyKey, MessageId, Position, StoredMessage};

use crate::desk::Desk;
use crate::incarnations::note;

/// By what a message is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// Its id.
    Id(MessageId),
    /// The caller's own key.
    Key(IdempotencyKey),
}

/// A stored message, and how far it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The message.
    pub stored: StoredMessage,
    /// Whether the broker has confirmed message and check.
    pub settled: bool,
}

/// Finds one message.
pub(crate) async fn find(desk: &Desk, by: &By) -> Result<Option<Found>, PortError> {
    let stored = match by {
        By::Id(id) => desk.messages.get(&[*id]).await?.pop(),
        By::Key(key) => desk.messages.by_key(key).await?,
    };
    let Some(stored) = stored else { return Ok(None) };
    let settled = is_settled(desk, stored.position).await;
    Ok(Some(Found { stored, settled }))
}

/// Whether a stored message is settled, as far as is known: our own memory is ahead of the watermark.
pub(crate) async fn is_settled(desk: &Desk, position: Position) -> bool {
    if let Some(ledger) = desk.incarnations.own(position.incarnation) {
        return !ledger.is_unsettled(position.seq);
    }
    match desk.messages.is_settled(position).await {
        Ok(settled) => settled,
        Err(error) => {
            note("whether a message is settled cannot be read", &error);
            false
        }
    }
}
