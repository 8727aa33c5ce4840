//! [`Outbox`] in memory, by the protocol's own functions.

use async_trait::async_trait;
use countersign_delivery::outbox::{Entry, Outcome, Patience, Status, next, released};
use countersign_delivery::ports::outbox::{Claim, Named, Outbox, OutboxRow, Released};
use countersign_delivery::ports::{Clock as _, PortError};
use countersign_delivery::{MessageId, Position, StoredMessage, UpstreamName};

use super::{Data, MemoryMessages};

impl Data {
    /// Rows of an upstream that have a status, in the order of their places.
    fn outbox<'a>(&'a self, upstream: &'a UpstreamName) -> impl Iterator<Item = (&'a StoredMessage, &'a Entry)> {
        let own = move |position: &Position| self.incarnations.get(&position.incarnation).is_some_and(|(of, _)| of == upstream);
        let row = |(position, entry)| Some((self.rows.get(position)?.as_ref()?, entry));
        self.entries.iter().filter(move |(position, _)| own(position)).filter_map(row)
    }
}

fn limited<T>(mut rows: Vec<T>, limit: u32) -> Vec<T> {
    rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    rows
}

#[async_trait]
impl Outbox for MemoryMessages {
    async fn record(&self, outcomes: &[(Position, Outcome)], patience: Patience) -> Result<Vec<Position>, PortError> {
        let (mut data, now, mut failed) = (self.open_data()?, self.clock.now(), Vec::new());
        for (position, outcome) in outcomes {
            let Some(entry) = data.entries.get_mut(position) else { continue };
            if let Some(after) = next(entry, outcome, patience, now) {
                failed.extend((after.status == Status::Failed).then_some(*position));
                *entry = after;
            }
        }
        Ok(failed)
    }

    async fn claim(&self, upstream: &UpstreamName, which: &Claim, limit: u32) -> Result<Vec<StoredMessage>, PortError> {
        let (mut data, now) = (self.open_data()?, self.clock.now());
        let until = now.plus_millis(self.sweep_after_ms);
        let wanted = |row: &StoredMessage, entry: &Entry| match which {
            Claim::Due => entry.due_at <= now,
            Claim::These(rows) => {
                let until = |named: &Named| until.minus_millis(named.since_ms);
                rows.iter().any(|named| named.position == row.position && entry.due_at <= until(named))
            }
        };
        let sending = data.outbox(upstream).filter(|(row, entry)| entry.status == Status::Sending && wanted(row, entry));
        let mut rows: Vec<_> = sending.map(|(row, entry)| (entry.due_at, row.clone())).collect();
        rows.sort_by_key(|(due_at, _)| *due_at);
        let rows = limited(rows, limit);
        for (_, row) in &rows {
            if let Some(entry) = data.entries.get_mut(&row.position) {
                entry.due_at = until;
            }
        }
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }

    async fn entries(&self, ids: &[MessageId]) -> Result<Vec<(MessageId, Entry)>, PortError> {
        let data = self.open_data()?;
        let rows = data.stored().filter(|row| ids.contains(&row.message.id));
        Ok(rows.filter_map(|row| Some((row.message.id, data.entries.get(&row.position)?.clone()))).collect())
    }

    async fn failed(&self, upstream: &UpstreamName, after: Option<MessageId>, limit: u32) -> Result<Vec<OutboxRow>, PortError> {
        let data = self.open_data()?;
        let rows = data
            .outbox(upstream)
            .filter(|(row, entry)| entry.status == Status::Failed && after.is_none_or(|after| row.message.id > after));
        let mut rows: Vec<_> = rows.map(|(row, entry)| OutboxRow { stored: row.clone(), entry: entry.clone() }).collect();
        rows.sort_by_key(|row| row.stored.message.id);
        for row in &mut rows {
            row.stored.message.body.clear();
        }
        Ok(limited(rows, limit))
    }

    async fn release(&self, upstream: &UpstreamName, ids: &[MessageId]) -> Result<Vec<Released>, PortError> {
        let (mut data, now) = (self.open_data()?, self.clock.now());
        let rows = ids.iter().map(|id| data.outbox(upstream).find(|(row, _)| row.message.id == *id));
        let rows: Vec<_> = rows.map(|row| row.map(|(row, entry)| (row.position, entry.clone()))).collect();
        let release = |row: Option<(Position, Entry)>| {
            let Some((position, entry)) = row else { return Released::Unknown };
            let Some(after) = released(&entry, now) else { return Released::Otherwise(entry.status) };
            data.entries.insert(position, after);
            Released::Released
        };
        Ok(rows.into_iter().map(release).collect())
    }

    async fn count_failed(&self, upstream: &UpstreamName, limit: u32) -> Result<u64, PortError> {
        let data = self.open_data()?;
        let failed = data.outbox(upstream).filter(|(_, entry)| entry.status == Status::Failed).count();
        Ok(u64::try_from(failed).unwrap_or(u64::MAX).min(u64::from(limit)))
    }
}
