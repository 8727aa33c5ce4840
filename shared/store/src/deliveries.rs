//! MSG DB: one row per message and subscription, its history, its events, and the probes of each lane.

mod apply;
mod counts;
mod events;
mod history;
mod probes;
mod reconciliation;
mod retention;
mod row;
mod shards;

use async_trait::async_trait;
use countersign_delivery::id::MessageId;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::deliveries::{Change, Counts, Deleted, Deliveries, DeliveryKey, Filter, HistoryLine};
use countersign_delivery::ports::events::{Events, Recorded};
use countersign_delivery::probe::{Lane, NextProbe, Probe};
use countersign_delivery::receipt::ProbeAnswer;
use countersign_delivery::state::{Delivery, Illegal};
use countersign_delivery::time::Timestamp;
use sea_orm::Value;

use crate::database::Database;
use crate::deliveries::row::{COLUMNS, delivery, state_words};
use crate::deliveries::shards::{Shard, Shards, put_back};

pub use crate::deliveries::reconciliation::SqlReconciliation;

pub(crate) use crate::deliveries::row::printable;

/// Callback's own database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SqlDeliveries {
    shards: Shards,
    overdue_ms: u64,
}

type Rows = Vec<(DeliveryKey, Delivery)>;

impl SqlDeliveries {
    pub(crate) fn new(database: Database, overdue_ms: u64) -> Self {
        Self { shards: Shards::new(database, []), overdue_ms }
    }

    /// MSG DB split over several databases, each with its tables: rows go by [`countersign_delivery::id::shard_of`]. The order of the
    /// databases must never change. No configuration names more than one yet.
    #[must_use]
    pub fn over(first: Database, others: impl IntoIterator<Item = Database>, overdue_ms: u64) -> Self {
        Self { shards: Shards::new(first, others), overdue_ms }
    }

    /// From all shards, in turn; the caller puts them in order.
    async fn select_everywhere(&self, rest: &str, values: &[Value]) -> Result<Rows, PortError> {
        let mut rows = Vec::new();
        for shard in self.shards.all() {
            rows.extend(select(shard, rest, values.to_vec()).await?);
        }
        Ok(rows)
    }
}

async fn select(shard: Shard<'_>, rest: &str, values: Vec<Value>) -> Result<Rows, PortError> {
    let sql = format!("SELECT {COLUMNS} FROM countersign_delivery AS d {rest}");
    shard.sql.read("reading deliveries", &sql, values).await?.iter().map(delivery).collect()
}

/// The first `limit` of them.
fn first(mut rows: Rows, limit: u32) -> Rows {
    rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    rows
}

#[async_trait]
impl Deliveries for SqlDeliveries {
    async fn now(&self) -> Result<Timestamp, PortError> {
        self.shards.home().now().await
    }

    async fn apply(&self, changes: &[Change<'_>]) -> Result<Vec<Result<Option<Delivery>, Illegal>>, PortError> {
        let mut answers = vec![None; changes.len()];
        for part in self.shards.split(changes, |change| change.key.message_id) {
            put_back(&mut answers, &part.places, apply::apply(part.shard, &part.items, self.overdue_ms).await?);
        }
        Ok(answers.into_iter().flatten().collect())
    }

    async fn look_up(&self, keys: &[DeliveryKey]) -> Result<Vec<Option<Delivery>>, PortError> {
        let mut found = vec![None; keys.len()];
        for part in self.shards.split(keys, |key| key.message_id) {
            put_back(&mut found, &part.places, row::look_up(part.shard.sql, &part.items).await?);
        }
        Ok(found.into_iter().map(Option::flatten).collect())
    }

    async fn overdue(&self, limit: u32) -> Result<Vec<(DeliveryKey, Delivery)>, PortError> {
        let now = self.now().await?;
        let rest = "WHERE d.due_at <= $1 AND d.due_at IS NOT NULL ORDER BY d.due_at LIMIT $2";
        let mut rows = self.select_everywhere(rest, &[now.as_millis().into(), i64::from(limit).into()]).await?;
        rows.sort_by_key(|(_, row)| row.due_at);
        Ok(first(rows, limit))
    }

    async fn list(&self, filter: &Filter, limit: u32) -> Result<Vec<(DeliveryKey, Delivery)>, PortError> {
        let mut conditions = vec!["true".to_owned()];
        let mut values = Vec::<Value>::new();
        if !filter.states.is_empty() {
            let Some(words) = state_words(&filter.states) else { return Ok(Vec::new()) };
            conditions.push(format!("d.state IN ({words})"));
        }
        if let Some(subscription) = &filter.subscription {
            values.push(subscription.as_str().into());
            conditions.push(format!("d.subscription = ${}", values.len()));
        }
        if let Some(after) = &filter.after {
            values.push(after.message_id.uuid().into());
            values.push(after.subscription.as_str().into());
            conditions.push(format!("(d.message_id, d.subscription) > (${}, ${})", values.len() - 1, values.len()));
        }
        values.push(i64::from(limit).into());
        let rest = format!("WHERE {} ORDER BY d.message_id, d.subscription LIMIT ${}", conditions.join(" AND "), values.len());
        let mut rows = self.select_everywhere(&rest, &values).await?;
        rows.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(first(rows, limit))
    }

    async fn counts(&self, most: u32) -> Result<Counts, PortError> {
        let mut sum = Counts::default();
        for shard in self.shards.all() {
            counts::add(shard.sql, most, &mut sum).await?;
        }
        Ok(sum)
    }

    async fn of_message(&self, id: MessageId) -> Result<Vec<(DeliveryKey, Delivery)>, PortError> {
        select(self.shards.of(id), "WHERE d.message_id = $1 ORDER BY d.subscription", vec![id.uuid().into()]).await
    }

    async fn history(&self, key: &DeliveryKey) -> Result<Vec<HistoryLine>, PortError> {
        history::read(self.shards.of(key.message_id).sql, key).await
    }

    async fn probes(&self, lanes: &[Lane]) -> Result<Vec<Vec<Probe>>, PortError> {
        probes::recent(self.shards.home().sql, lanes).await
    }

    async fn store_probe(&self, lane: &Lane, probe: NextProbe) -> Result<bool, PortError> {
        probes::store(self.shards.home().sql, lane, probe, self.now().await?).await
    }

    async fn probes_answered(&self, answers: &[ProbeAnswer]) -> Result<(), PortError> {
        probes::answered(self.shards.home().sql, answers, self.now().await?).await
    }

    async fn delete_settled(&self, before: Timestamp, after: Option<&DeliveryKey>, limit: u32) -> Result<Deleted, PortError> {
        retention::delete_settled(&self.shards, before, after, limit).await
    }

    async fn forgotten_before(&self) -> Result<Timestamp, PortError> {
        retention::forgotten_before(self.shards.home()).await
    }
}

#[async_trait]
impl Events for SqlDeliveries {
    async fn take(&self, lease_ms: u64, limit: u32) -> Result<Vec<Recorded>, PortError> {
        let mut taken = Vec::new();
        for shard in self.shards.all() {
            let left = limit.saturating_sub(u32::try_from(taken.len()).unwrap_or(u32::MAX));
            if left > 0 {
                taken.extend(events::taken(shard, lease_ms, left).await?);
            }
        }
        Ok(taken)
    }

    async fn published(&self, events: &[Recorded]) -> Result<(), PortError> {
        for part in self.shards.split(events, |event| event.key.message_id) {
            events::delete(part.shard.sql, &part.items).await?;
        }
        Ok(())
    }

    async fn drop_oldest(&self, keep: u64) -> Result<u64, PortError> {
        let mut dropped = 0;
        for shard in self.shards.all() {
            dropped += events::drop_oldest(shard.sql, keep).await?;
        }
        Ok(dropped)
    }
}
