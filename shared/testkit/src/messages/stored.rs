//! [`Stored`] in memory.

use async_trait::async_trait;
use countersign_delivery::outbox::Status;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::stored::{Stored, StoredPage, StoredRow};
use countersign_delivery::reconcile::Window;
use countersign_delivery::{MessageId, StoredMessage, UpstreamName};

use super::{Data, MemoryMessages};

impl Data {
    /// Whether a row is this upstream's, and confirmed if it has a status.
    fn counts(&self, upstream: &UpstreamName, row: &StoredMessage) -> bool {
        let own = self.incarnations.get(&row.position.incarnation).is_some_and(|(of, _)| of == upstream);
        own && self.entries.get(&row.position).is_none_or(|entry| entry.status == Status::Confirmed)
    }
}

fn counted(row: &StoredMessage) -> StoredRow {
    let message = row.message.clone();
    StoredRow {
        id: message.id,
        fingerprint: message.fingerprint,
        sent_at: message.sent_at,
        required: message.required,
        mode: message.mode,
        exchange: message.exchange,
        routing_key: message.routing_key,
    }
}

#[async_trait]
impl Stored for MemoryMessages {
    async fn stored(
        &self,
        upstream: &UpstreamName,
        minted: Window,
        after: Option<MessageId>,
        limit: u32,
    ) -> Result<StoredPage, PortError> {
        let data = self.open_data()?;
        let wanted = |id: MessageId| minted.contains(id.minted_at()) && after.is_none_or(|after| id > after);
        let mut rows: Vec<_> = data.stored().filter(|row| wanted(row.message.id)).collect();
        rows.sort_by_key(|row| row.message.id);
        rows.truncate(usize::try_from(limit.max(1)).unwrap_or(usize::MAX));
        let full = rows.len() == usize::try_from(limit.max(1)).unwrap_or(usize::MAX);
        let next = rows.last().filter(|_| full).map(|row| row.message.id);
        Ok(StoredPage { rows: rows.into_iter().filter(|row| data.counts(upstream, row)).map(counted).collect(), next })
    }
}
