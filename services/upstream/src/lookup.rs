//! Reading stored messages back.

use countersign_delivery::outbox::{Entry, Status};
use countersign_delivery::ports::PortError;
use countersign_delivery::topology::Mode;
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
    /// How its row stands, in mode `outbox`.
    pub entry: Option<Entry>,
    /// Whether a delayed check follows it.
    pub has_check: bool,
}

/// Finds one message.
pub(crate) async fn find(desk: &Desk, by: &By) -> Result<Option<Found>, PortError> {
    let stored = match by {
        By::Id(id) => desk.messages.get(&[*id]).await?.pop(),
        By::Key(key) => desk.messages.by_key(key).await?,
    };
    let Some(stored) = stored else { return Ok(None) };
    let (id, position) = (stored.message.id, stored.position);
    if stored.message.mode != Mode::Outbox {
        let settled = is_settled(desk, id, position).await;
        return Ok(Some(Found { stored, settled, entry: None, has_check: true }));
    }
    let entry = entry(desk, id, position).await?;
    let settled = entry.as_ref().is_none_or(|entry| entry.status == Status::Confirmed);
    let has_check = desk.topology.route(&stored.message.exchange, &stored.message.routing_key).has_check();
    Ok(Some(Found { stored, settled, entry, has_check }))
}

/// How a row of mode `outbox` stands; our own memory is ahead of what is written.
async fn entry(desk: &Desk, id: MessageId, position: Position) -> Result<Option<Entry>, PortError> {
    let entry = desk.outbox.entries(&[id]).await?.pop().map(|(_, entry)| entry);
    let status = if desk.waiting.is_confirmed(position) { Some(Status::Confirmed) } else { None };
    Ok(entry.map(|entry| Entry { status: status.unwrap_or(entry.status), ..entry }))
}

/// Whether a stored message is settled, as far as is known: our own memory is ahead of the watermark. A row of mode `outbox` is when it is
/// confirmed.
pub(crate) async fn is_settled(desk: &Desk, id: MessageId, position: Position) -> bool {
    let own = desk.incarnations.own(position.incarnation);
    if own.as_ref().is_some_and(|ledger| ledger.is_unsettled(position.seq)) {
        return false;
    }
    let asked = async {
        // What this incarnation stored went by our own topology: without a route to the outbox there is no status to ask for.
        let has_outbox = desk.topology.routes.iter().any(|route| route.mode == Mode::Outbox);
        if (own.is_none() || has_outbox)
            && let Some(entry) = entry(desk, id, position).await?
        {
            return Ok(entry.status == Status::Confirmed);
        }
        if own.is_some() { Ok(true) } else { desk.messages.is_settled(position).await }
    };
    asked.await.unwrap_or_else(|error: PortError| {
        note("whether a message is settled cannot be read", &error);
        false
    })
}
