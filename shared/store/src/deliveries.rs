//! MSG DB: one row per message and subscription, its history, and the probes of each lane.

mod apply;
mod history;
mod probes;
mod reconciliation;
mod row;

use async_trait::async_trait;
use countersign_delivery::id::MessageId;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::deliveries::{Change, Deliveries, DeliveryKey, Filter, HistoryLine};
use countersign_delivery::probe::{Lane, NextProbe, Probe};
use countersign_delivery::receipt::ProbeAnswer;
use countersign_delivery::state::{Delivery, Illegal};
use countersign_delivery::time::Timestamp;
use sea_orm::Value;

use crate::database::Database;
use crate::deliveries::row::{COLUMNS, delivery, state_words};
use crate::sql::Sql;

pub use crate::deliveries::reconciliation::SqlReconciliation;

/// Callback's own database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SqlDeliveries {
    database: Database,
    overdue_ms: u64,
}

impl SqlDeliveries {
    pub(crate) const fn new(database: Database, overdue_ms: u64) -> Self {
        Self { database, overdue_ms }
    }

    fn sql(&self) -> &Sql {
        self.database.sql()
    }

    async fn select(&self, rest: &str, values: Vec<Value>) -> Result<Vec<(DeliveryKey, Delivery)>, PortError> {
        let sql = format!("SELECT {COLUMNS} FROM countersign_delivery AS d {rest}");
        self.sql().read("reading deliveries", &sql, values).await?.iter().map(delivery).collect()
    }
}

#[async_trait]
impl Deliveries for SqlDeliveries {
    async fn now(&self) -> Result<Timestamp, PortError> {
        self.database.inner.clock.now(self.sql()).await
    }

    async fn apply(&self, changes: &[Change<'_>]) -> Result<Vec<Result<Option<Delivery>, Illegal>>, PortError> {
        apply::apply(self, changes).await
    }

    async fn look_up(&self, keys: &[DeliveryKey]) -> Result<Vec<Option<Delivery>>, PortError> {
        row::look_up(self.sql(), keys).await
    }

    async fn overdue(&self, limit: u32) -> Result<Vec<(DeliveryKey, Delivery)>, PortError> {
        let now = self.now().await?;
        let rest = "WHERE d.due_at <= $1 AND d.due_at IS NOT NULL ORDER BY d.due_at LIMIT $2";
        self.select(rest, vec![now.as_millis().into(), i64::from(limit).into()]).await
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
        self.select(&rest, values).await
    }

    async fn of_message(&self, id: MessageId) -> Result<Vec<(DeliveryKey, Delivery)>, PortError> {
        self.select("WHERE d.message_id = $1 ORDER BY d.subscription", vec![id.uuid().into()]).await
    }

    async fn history(&self, key: &DeliveryKey) -> Result<Vec<HistoryLine>, PortError> {
        history::read(self.sql(), key).await
    }

    async fn probes(&self, lanes: &[Lane]) -> Result<Vec<Vec<Probe>>, PortError> {
        probes::recent(self.sql(), lanes).await
    }

    async fn store_probe(&self, lane: &Lane, probe: NextProbe) -> Result<bool, PortError> {
        probes::store(self.sql(), lane, probe, self.now().await?).await
    }

    async fn probes_answered(&self, answers: &[ProbeAnswer]) -> Result<(), PortError> {
        probes::answered(self.sql(), answers, self.now().await?).await
    }
}
