//! A transaction of the caller's own, in which messages are stored beside the business rows.

use std::collections::HashSet;
use std::time::Duration;

use countersign_delivery::id::{IncarnationId, MessageId};
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::messages::{Insertion, Numbered};
use sea_orm::{DatabaseTransaction, DbBackend};

use crate::database::Database;
use crate::database::postgres::BY_KEY;
use crate::messages::insert::insert_within;
use crate::messages::row;
use crate::rows::Rows;
use crate::sql::Tx;

/// Names it in errors.
const WHAT: &str = "the transaction of business rows and messages";

/// An open transaction of business rows and messages. Dropped without [`Self::commit`] it rolls back.
#[derive(Debug)]
pub struct Enlisted(Tx);

impl Database {
    /// Begins a transaction in which the caller's own statements run beside [`Enlisted::insert`]. `idle_limit` is the longest time it may
    /// sit between two statements. On SQLite it holds the one connection that writes until it ends.
    ///
    /// # Errors
    /// [`PortError`]: nothing has begun.
    pub async fn enlist(&self, idle_limit: Duration) -> Result<Enlisted, PortError> {
        let tx = self.sql().begin(WHAT).await?;
        if tx.backend() == DbBackend::Postgres {
            tx.run_all(&settings(idle_limit)).await?;
        }
        Ok(Enlisted(tx))
    }
}

/// Until the transaction ends: the server's own settings for the business statements, and time enough for what goes on between them.
fn settings(idle_limit: Duration) -> String {
    let own = BY_KEY.map(|setting| format!("SET LOCAL {setting} TO DEFAULT; ")).concat();
    format!("{own}SET LOCAL idle_in_transaction_session_timeout TO {}", idle_limit.as_millis())
}

impl Enlisted {
    /// The transaction, for the business statements; savepoints can be begun in it.
    #[must_use]
    pub const fn connection(&self) -> &DatabaseTransaction {
        self.0.inner()
    }

    /// Inserts messages, by the same fenced statement as [`countersign_delivery::ports::messages::Messages::insert`];
    /// [`Insertion::Committed`] says what becomes of each with the commit.
    ///
    /// # Errors
    /// [`PortError`]: the transaction must not be committed. Neither must it after [`Insertion::Fenced`].
    pub async fn insert(&self, incarnation: IncarnationId, batch: &[Numbered]) -> Result<Insertion, PortError> {
        insert_within(&self.0, incarnation, batch).await
    }

    /// Which of these messages a commit would store: a savepoint that was rolled back took its own with it.
    ///
    /// # Errors
    /// [`PortError`]: the transaction has failed, and a commit would roll it back without a word.
    pub async fn present(&self, ids: &[MessageId]) -> Result<HashSet<MessageId>, PortError> {
        let mut present = HashSet::with_capacity(ids.len());
        // Asked even for nothing: a statement that failed, and whose error the caller swallowed, comes to light here.
        self.0.rows("SELECT 1", Vec::new()).await?;
        for ids in ids.chunks(Rows::limit(self.0.backend(), 1)) {
            let (source, values) = Rows::default().uuids("id", ids.iter().map(|id| id.uuid())).source(self.0.backend());
            let sql = format!("SELECT m.id FROM countersign_message AS m WHERE m.id IN (SELECT v.id FROM {source})");
            for row in self.0.rows(&sql, values).await? {
                present.insert(row::message_id(&row)?);
            }
        }
        Ok(present)
    }

    /// Makes business rows and messages durable together.
    ///
    /// # Errors
    /// [`PortError`]: whether it was committed is only known by [`countersign_delivery::ports::messages::Messages::entomb`].
    pub async fn commit(self) -> Result<(), PortError> {
        self.0.commit().await
    }

    /// Takes everything back at once.
    ///
    /// # Errors
    /// [`PortError`]: nothing was committed all the same.
    pub async fn rollback(self) -> Result<(), PortError> {
        self.0.rollback().await
    }
}
