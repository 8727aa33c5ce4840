//! A transaction of the caller's own, in which messages are stored beside the business rows.

use std::collections::HashSet;
use std::time::Duration;

use countersign_delivery::Timestamp;
use countersign_delivery::id::{IncarnationId, MessageId};
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::messages::{Insertion, Numbered};
use sea_orm::DatabaseTransaction;

use crate::database::Database;
use crate::messages::insert::insert_within;
use crate::messages::label::Labels;
use crate::messages::{by_id, row};
use crate::sql::{Over, Tx};

/// Names it in errors.
const WHAT: &str = "the transaction of business rows and messages";

/// An open transaction of business rows and messages. Dropped without [`Self::commit`] it rolls back.
#[derive(Debug)]
pub struct Enlisted {
    tx: Tx,
    labels: Labels,
    /// When its rows of mode `outbox` are due for the sweeper.
    due_at: Timestamp,
}

impl Database {
    /// Begins a transaction in which the caller's own statements run beside [`Enlisted::insert`]. `idle_limit` is the longest time it may
    /// sit between two statements; rows of mode `outbox` are left to the sweeper after `sweep_after_ms`. On SQLite it holds the one connection that writes until it ends.
    ///
    /// # Errors
    /// [`PortError`]: nothing has begun.
    pub async fn enlist(&self, idle_limit: Duration, sweep_after_ms: u64) -> Result<Enlisted, PortError> {
        let due_at = self.inner.clock.now(self.sql()).await?.plus_millis(sweep_after_ms);
        let labels = self.inner.labels.clone();
        // Before BEGIN, which on SQLite takes the only connection that writes.
        labels.write_wanted(self.sql()).await;
        let limits = [("idle_in_transaction_session_timeout", idle_limit.as_millis())];
        let tx = self.sql().begin_for_caller(WHAT, &limits).await?;
        Ok(Enlisted { tx, labels, due_at })
    }
}

impl Enlisted {
    /// The transaction, for the business statements; savepoints can be begun in it.
    #[must_use]
    pub const fn connection(&self) -> &DatabaseTransaction {
        self.tx.inner()
    }

    /// Inserts messages, by the same fenced statement as [`countersign_delivery::ports::messages::Messages::insert`];
    /// [`Insertion::Committed`] says what becomes of each with the commit.
    ///
    /// # Errors
    /// [`PortError`]: the transaction must not be committed. Neither must it after [`Insertion::Fenced`].
    pub async fn insert(&self, incarnation: IncarnationId, batch: &[Numbered]) -> Result<Insertion, PortError> {
        insert_within(&self.tx, &self.labels, incarnation, batch, self.due_at).await
    }

    /// Which of these messages a commit would store: a savepoint that was rolled back took its own with it.
    ///
    /// # Errors
    /// [`PortError`]: the transaction has failed, and a commit would roll it back without a word.
    pub async fn present(&self, ids: &[MessageId]) -> Result<HashSet<MessageId>, PortError> {
        // Asked even for nothing: a statement that failed, and whose error the caller swallowed, comes to light here.
        self.tx.rows("SELECT 1", Vec::new()).await?;
        let rows = by_id::select(Over::Tx(&self.tx), "m.id", "true", ids).await?;
        rows.iter().map(row::message_id).collect()
    }

    /// Makes business rows and messages durable together.
    ///
    /// # Errors
    /// [`PortError`]: whether it was committed is only known by [`countersign_delivery::ports::messages::Messages::entomb`].
    pub async fn commit(self) -> Result<(), PortError> {
        self.tx.commit().await
    }

    /// Takes everything back at once.
    ///
    /// # Errors
    /// [`PortError`]: nothing was committed all the same.
    pub async fn rollback(self) -> Result<(), PortError> {
        self.tx.rollback().await
    }
}
