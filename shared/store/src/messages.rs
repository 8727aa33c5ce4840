//! Upstream's tables: messages, the fence around them, and what their owners leave behind.

mod by_id;
mod enlist;
mod fence;
mod insert;
mod label;
mod outbox;
mod retention;
mod row;
mod stored;

pub use enlist::Enlisted;

pub(crate) use label::Labels;

use async_trait::async_trait;
use countersign_delivery::id::{IdempotencyKey, IncarnationId, MessageId, Seq, UpstreamName};
use countersign_delivery::message::{Position, StoredMessage};
use countersign_delivery::outbox::{Entry, Outcome, Patience};
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::messages::{Entombed, Expiry, Heartbeat, Insertion, Messages, Numbered, Opened};
use countersign_delivery::ports::outbox::{Claim, Outbox, OutboxRow, Released};
use countersign_delivery::ports::stored::{Stored, StoredPage};
use countersign_delivery::reconcile::Window;
use countersign_delivery::time::Timestamp;
use countersign_delivery::topology::Mode;
use sea_orm::Value;

use crate::database::Database;
use crate::messages::row::{COLUMNS, stored_all};
use crate::rows::{Rows, place};
use crate::sql::{Over, Sql, signed};

const READING: &str = "reading messages";

/// Upstream's side of the business database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SqlMessages {
    database: Database,
    sweep_after_ms: u64,
}

impl SqlMessages {
    /// When a row of mode `outbox` is due unless told otherwise, milliseconds after it was stored or claimed.
    pub const SWEEP_AFTER_MS: u64 = 300_000;

    pub(crate) const fn new(database: Database) -> Self {
        Self { database, sweep_after_ms: Self::SWEEP_AFTER_MS }
    }

    /// The same with another time after which rows of mode `outbox` are due, milliseconds.
    #[must_use]
    pub fn sweeping_after(self, sweep_after_ms: u64) -> Self {
        Self { sweep_after_ms, ..self }
    }

    /// The database's time.
    async fn now(&self) -> Result<Timestamp, PortError> {
        self.database.inner.clock.now(self.sql()).await
    }

    fn sql(&self) -> &Sql {
        self.database.sql()
    }

    fn labels(&self) -> &Labels {
        &self.database.inner.labels
    }

    async fn select(&self, rest: &str, values: Vec<Value>) -> Result<Vec<StoredMessage>, PortError> {
        let sql = format!("SELECT {COLUMNS} FROM countersign_message AS m {rest}");
        let rows = self.sql().read(READING, &sql, values).await?;
        stored_all(self.sql(), self.labels(), &rows).await
    }
}

#[async_trait]
impl Messages for SqlMessages {
    async fn open(&self, upstream: &UpstreamName, incarnation: IncarnationId, now: Timestamp) -> Result<Opened, PortError> {
        fence::open(self.sql(), upstream, incarnation, now).await
    }

    async fn insert(&self, incarnation: IncarnationId, batch: &[Numbered]) -> Result<Insertion, PortError> {
        // The clock is asked only for those that need it.
        let has_outbox = batch.iter().any(|row| row.message.mode == Mode::Outbox);
        let now = if has_outbox { self.now().await? } else { Timestamp::from_millis(0) };
        insert::insert(self.sql(), self.labels(), incarnation, batch, now.plus_millis(self.sweep_after_ms)).await
    }

    async fn entomb(&self, position: Position) -> Result<Entombed, PortError> {
        insert::entomb(self.sql(), self.labels(), position).await
    }

    async fn beat(
        &self,
        incarnation: IncarnationId,
        counter: u64,
        watermark: Seq,
        settled_until: Timestamp,
    ) -> Result<bool, PortError> {
        fence::beat(self.sql(), incarnation, counter, watermark, settled_until).await
    }

    async fn heartbeats(&self, upstream: &UpstreamName) -> Result<Vec<Heartbeat>, PortError> {
        fence::heartbeats(self.sql(), upstream).await
    }

    async fn adopt(&self, seen: &Heartbeat, adopter: IncarnationId) -> Result<bool, PortError> {
        fence::adopt(self.sql(), seen, adopter).await
    }

    async fn fence(&self, incarnation: IncarnationId) -> Result<(), PortError> {
        fence::fence(self.sql(), incarnation).await
    }

    async fn scan(&self, incarnation: IncarnationId, from: Seq, limit: u32) -> Result<Vec<StoredMessage>, PortError> {
        let rest = "WHERE m.incarnation = $1 AND m.seq >= $2 AND m.id IS NOT NULL AND m.status IS NULL ORDER BY m.seq LIMIT $3";
        let values = vec![incarnation.0.into(), signed(from.0).into(), i64::from(limit).into()];
        self.select(rest, values).await
    }

    async fn at(&self, incarnation: IncarnationId, seqs: &[Seq]) -> Result<Vec<StoredMessage>, PortError> {
        let backend = self.sql().backend;
        let mut found = Vec::with_capacity(seqs.len());
        for seqs in seqs.chunks(Rows::limit(backend, 1)) {
            let (source, mut values) = Rows::default().ints("seq", seqs.iter().map(|seq| signed(seq.0))).source(backend);
            let incarnation = place(&mut values, incarnation.0);
            let rest =
                format!("WHERE m.seq IN (SELECT v.seq FROM {source}) AND m.incarnation = {incarnation} AND m.id IS NOT NULL");
            found.extend(self.select(&rest, values).await?);
        }
        Ok(found)
    }

    async fn close(&self, incarnation: IncarnationId) -> Result<(), PortError> {
        fence::close(self.sql(), incarnation).await
    }

    async fn get(&self, ids: &[MessageId]) -> Result<Vec<StoredMessage>, PortError> {
        let sql = self.sql();
        let rows = by_id::select(Over::Pool(sql, READING), COLUMNS, "true", ids).await?;
        stored_all(sql, self.labels(), &rows).await
    }

    async fn by_key(&self, key: &IdempotencyKey) -> Result<Option<StoredMessage>, PortError> {
        Ok(self.select("WHERE m.idempotency_key = $1", vec![key.as_str().into()]).await?.pop())
    }

    async fn delete_expired(&self, upstream: &UpstreamName, expiry: Expiry, limit: u32) -> Result<u64, PortError> {
        // The database's clock must agree that a message is old.
        let now = self.now().await?.min(expiry.now);
        retention::delete_expired(self.sql(), upstream, Expiry { now, ..expiry }, limit).await
    }

    async fn is_settled(&self, position: Position) -> Result<bool, PortError> {
        let sql = "SELECT 1 FROM countersign_incarnation AS i \
                   JOIN countersign_heartbeat AS h ON h.incarnation = i.id \
                   WHERE i.id = $1 AND i.state <> 'closed' AND h.watermark <= $2";
        let values = vec![position.incarnation.0.into(), signed(position.seq.0).into()];
        Ok(self.sql().read("reading a watermark", sql, values).await?.is_empty())
    }
}

#[async_trait]
impl Outbox for SqlMessages {
    async fn record(&self, outcomes: &[(Position, Outcome)], patience: Patience) -> Result<Vec<Position>, PortError> {
        outbox::record(self.sql(), outcomes, patience, self.now().await?).await
    }

    async fn claim(&self, upstream: &UpstreamName, which: &Claim, limit: u32) -> Result<Vec<StoredMessage>, PortError> {
        let now = self.now().await?;
        outbox::claim(self.sql(), self.labels(), upstream, which, limit, now, now.plus_millis(self.sweep_after_ms)).await
    }

    async fn entries(&self, ids: &[MessageId]) -> Result<Vec<(MessageId, Entry)>, PortError> {
        outbox::entries(self.sql(), ids).await
    }

    async fn failed(&self, upstream: &UpstreamName, after: Option<MessageId>, limit: u32) -> Result<Vec<OutboxRow>, PortError> {
        outbox::failed(self.sql(), self.labels(), upstream, after, limit).await
    }

    async fn release(&self, upstream: &UpstreamName, ids: &[MessageId]) -> Result<Vec<Released>, PortError> {
        outbox::release(self.sql(), upstream, ids, self.now().await?).await
    }

    async fn count_failed(&self, upstream: &UpstreamName, limit: u32) -> Result<u64, PortError> {
        outbox::count_failed(self.sql(), upstream, limit).await
    }
}

#[async_trait]
impl Stored for SqlMessages {
    async fn stored(
        &self,
        upstream: &UpstreamName,
        minted: Window,
        after: Option<MessageId>,
        limit: u32,
    ) -> Result<StoredPage, PortError> {
        stored::stored(self.sql(), self.labels(), upstream, minted, after, limit).await
    }
}
