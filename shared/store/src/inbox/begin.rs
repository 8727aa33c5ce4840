//! A handler's transaction begins: its first statement takes the message's row.
//!
//! The statement is a plain INSERT that does nothing when the row is there. While another transaction has inserted it and is not over, it
//! waits; if that one is rolled back, the row is ours. An unfinished start of another fingerprint does not stand in the way here: it was
//! rolled back with its transaction, so it had no effect ([`super::starts`] answers a conflict all the same).

use std::time::Duration;

use countersign_delivery::ports::PortError;
use countersign_delivery::ports::claims::{Claim, ClaimKey};
use tokio::time::timeout;

use crate::clock::now_within;
use crate::error::is_contended;
use crate::inbox::SqlInbox;
use crate::inbox::row::fingerprint;
use crate::inbox::transaction::InboxTransaction;
use crate::sql::{Tx, take};

/// Names it in errors.
pub(super) const WHAT: &str = "the handler's transaction";

/// For how long a handler's transaction may hold the message's row. PostgreSQL enforces it, also when this process is frozen or its host
/// gone; on SQLite only [`Self::lock_timeout_ms`] counts, and the handler's own time-out ends the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionLimits {
    /// How long to wait for a turn, and how long each statement may then wait for a lock, the message's row included, milliseconds; at most
    /// `database.statement_timeout_ms`. Default 5 000.
    pub lock_timeout_ms: u64,
    /// How long one statement of the handler may run, milliseconds; above `lock_timeout_ms`. Default 10 000.
    pub statement_timeout_ms: u64,
    /// How long it may sit between two statements, milliseconds: then the server ends its session, which rolls it back. Default 20 000.
    pub idle_timeout_ms: u64,
}

impl Default for TransactionLimits {
    fn default() -> Self {
        Self { lock_timeout_ms: 5_000, statement_timeout_ms: 10_000, idle_timeout_ms: 20_000 }
    }
}

/// Who has the row.
#[derive(Debug)]
pub enum Taking {
    /// We do: the handler's statements go into this transaction.
    Ours(InboxTransaction),
    /// Done before.
    Done,
    /// Done before, under another fingerprint.
    Conflict,
    /// Another transaction has it for longer than we may wait; or as many are open as may be ([`SqlInbox::at_a_time`]), on SQLite one. Later.
    Busy,
}

/// What the first statement finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    /// It has inserted it.
    Ours,
    Done,
    Conflict,
    /// It was there, and is not any more: it is just being forgotten.
    Gone,
}

impl SqlInbox {
    /// How many handlers' transactions this process may have open: one on SQLite, else `max_connections` less two. More of them wait.
    #[must_use]
    pub fn at_a_time(&self) -> usize {
        self.database.inner.transactions
    }

    /// Begins the handler's transaction and takes the message's row. The caller's own statements go through
    /// [`InboxTransaction::connection`].
    ///
    /// # Errors
    /// [`PortError`]: nothing has begun.
    pub async fn begin(&self, claim: &Claim, limits: TransactionLimits) -> Result<Taking, PortError> {
        let turn = self.database.inner.turns.clone().acquire_owned();
        let Ok(Ok(turn)) = timeout(Duration::from_millis(limits.lock_timeout_ms), turn).await else {
            return Ok(Taking::Busy);
        };
        match self.take_within(&claim.key, limits).await {
            Ok((tx, Row::Ours)) => Ok(Taking::Ours(InboxTransaction::new(self.clone(), tx, claim.key.clone(), turn))),
            Ok((_, Row::Done)) => Ok(Taking::Done),
            Ok((_, Row::Conflict)) => Ok(Taking::Conflict),
            Ok((_, Row::Gone)) => Ok(Taking::Busy),
            Err(error) if is_contended(self.sql().backend, &error) => Ok(Taking::Busy),
            Err(error) => Err(error),
        }
    }

    /// A new transaction and what its first statement finds. Unless the row is ours it is rolled back already.
    pub(super) async fn take_within(&self, key: &ClaimKey, limits: TransactionLimits) -> Result<(Tx, Row), PortError> {
        let TransactionLimits { lock_timeout_ms, statement_timeout_ms, idle_timeout_ms } = limits;
        let limits = [
            ("lock_timeout", lock_timeout_ms.into()),
            ("statement_timeout", statement_timeout_ms.into()),
            ("idle_in_transaction_session_timeout", idle_timeout_ms.into()),
        ];
        let tx = self.sql().begin_for_caller(WHAT, &limits).await?;
        let row = take_row(&tx, key).await?;
        Ok((tx, row))
    }
}

async fn take_row(tx: &Tx, key: &ClaimKey) -> Result<Row, PortError> {
    let now = now_within(tx.backend());
    let insert = format!(
        "INSERT INTO countersign_inbox (message_id, done_at, subscription, fingerprint, effect_epoch) VALUES ($1, {now}, $2, $3, $4) \
         ON CONFLICT (subscription, message_id, effect_epoch) DO NOTHING"
    );
    let (subscription, epoch) = (key.subscription.as_str(), i64::from(key.effect_epoch));
    let values =
        vec![key.message_id.uuid().into(), subscription.into(), key.fingerprint.as_bytes().to_vec().into(), epoch.into()];
    let inserted = tx.run(&insert, values).await?.rows_affected() == 1;
    if inserted && key.effect_epoch == 0 {
        return Ok(Row::Ours);
    }
    // Read committed: this statement sees what the first one ran into. A further effect is that of the content that had the others.
    let query = "SELECT fingerprint, CAST(effect_epoch AS bigint) AS effect_epoch FROM countersign_inbox \
                 WHERE subscription = $1 AND message_id = $2";
    let mut there = false;
    for row in tx.rows(query, vec![subscription.into(), key.message_id.uuid().into()]).await? {
        if fingerprint(&row, "fingerprint")?.as_ref() != Some(&key.fingerprint) {
            return Ok(Row::Conflict);
        }
        there |= take::<i64>(&row, "effect_epoch")? == epoch;
    }
    Ok(match (inserted, there) {
        (true, _) => Row::Ours,
        (false, true) => Row::Done,
        (false, false) => Row::Gone,
    })
}
