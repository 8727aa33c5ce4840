//! A handler's transaction, and its end.
//!
//! What COMMIT answers is not believed by itself: PostgreSQL answers a transaction that has failed as if all were well, and a savepoint that
//! outlives the handler takes COMMIT's place. So the row is looked for before COMMIT, in the transaction, and after it, from outside. If no
//! answer comes, the row is asked for until it tells.
//!
//! COMMIT needs no task that its caller cannot cancel: dropped half-way it is carried out or not, and the row, which whoever comes next asks
//! for, says which.
//!
//! **Invariant:** `Yes` is answered only when the row has been seen from outside the transaction.

use std::time::Duration;

use countersign_delivery::ports::PortError;
use countersign_delivery::ports::claims::ClaimKey;
use sea_orm::{DatabaseTransaction, DbBackend};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, timeout_at};

use crate::inbox::SqlInbox;
use crate::inbox::begin::{Row, TransactionLimits, WHAT};
use crate::sql::Tx;

/// For how long the row is asked what became of a COMMIT without an answer.
const RESOLVE: Duration = Duration::from_secs(15);
/// Between two such questions.
const RESOLVE_PAUSE: Duration = Duration::from_millis(100);

const ROW: &str =
    "SELECT 1 FROM countersign_inbox WHERE subscription = $1 AND message_id = $2 AND fingerprint = $3 AND effect_epoch = $4";

/// An open transaction that has the message's row. Dropped without [`Self::commit`] it rolls back.
#[derive(Debug)]
pub struct InboxTransaction {
    inbox: SqlInbox,
    tx: Tx,
    key: ClaimKey,
    /// Given back when everything is over, the look at what was committed included.
    turn: OwnedSemaphorePermit,
}

/// What became of a transaction.
#[derive(Debug)]
#[must_use]
pub enum Committed {
    /// Effect and row are committed.
    Yes,
    /// Nothing was committed, and nothing will be.
    RolledBack(PortError),
    /// The answer was lost, and the row did not tell in time. The next claim will.
    Unknown(PortError),
}

impl InboxTransaction {
    pub(super) const fn new(inbox: SqlInbox, tx: Tx, key: ClaimKey, turn: OwnedSemaphorePermit) -> Self {
        Self { inbox, tx, key, turn }
    }

    /// The transaction, for the handler's statements: sea-orm's `ConnectionTrait`, and its `TransactionTrait` for savepoints, which must end
    /// before it does.
    #[must_use]
    pub const fn connection(&self) -> &DatabaseTransaction {
        self.tx.inner()
    }

    /// Makes effect and row durable together.
    pub async fn commit(self) -> Committed {
        let Self { inbox, tx, key, turn: _turn } = self;
        if was_ended(&tx).await {
            roll_back(tx).await;
            return match is_there(&inbox, &key).await {
                Ok(true) => Committed::Yes,
                Ok(false) => Committed::RolledBack(ended()),
                Err(error) => Committed::Unknown(error),
            };
        }
        if let Err(error) = is_still_ours(&tx, &key).await {
            roll_back(tx).await;
            return Committed::RolledBack(error);
        }
        let doubt = match tx.commit().await {
            Ok(()) => match is_there(&inbox, &key).await {
                Ok(true) => return Committed::Yes,
                Ok(false) => {
                    let words = "its row is not there: has a savepoint outlived the handler?";
                    PortError::OutcomeUnknown("COMMIT", words.into())
                }
                Err(error) => PortError::OutcomeUnknown("the look at what was committed", error.into()),
            },
            Err(error @ PortError::OutcomeUnknown(..)) => error,
            Err(error) => return Committed::RolledBack(error),
        };
        match resolve(&inbox, &key).await {
            Some(true) => Committed::Yes,
            Some(false) => Committed::RolledBack(PortError::Unavailable(WHAT, doubt.into())),
            None => Committed::Unknown(doubt),
        }
    }

    /// Takes everything back at once. If no answer comes, the end of the session does.
    pub async fn roll_back(self) {
        was_ended(&self.tx).await;
        roll_back(self.tx).await;
    }
}

async fn roll_back(tx: Tx) {
    if let Err(error) = tx.rollback().await {
        tracing::warn!(error = &error as &dyn std::error::Error, "a transaction is rolled back by the end of its session");
    }
}

/// Whether the handler has ended the transaction by a statement of its own, on SQLite. Then a new one takes its place: the driver, which
/// counts transactions, would take the connection for open ever after.
async fn was_ended(tx: &Tx) -> bool {
    // Within a transaction it is an error, and changes nothing.
    tx.backend() == DbBackend::Sqlite && tx.run_all("BEGIN").await.is_ok()
}

fn ended() -> PortError {
    let words = "its row is gone: the handler has ended the transaction that is only lent to it, by ROLLBACK";
    PortError::Refused(WHAT, words.into())
}

fn values_of(key: &ClaimKey) -> Vec<sea_orm::Value> {
    let fingerprint = key.fingerprint.as_bytes().to_vec();
    vec![key.subscription.as_str().into(), key.message_id.uuid().into(), fingerprint.into(), i64::from(key.effect_epoch).into()]
}

/// Errors unless a COMMIT would commit the row: the statement fails in a transaction that has failed, and finds nothing in one that the
/// handler has ended by itself.
async fn is_still_ours(tx: &Tx, key: &ClaimKey) -> Result<(), PortError> {
    match tx.rows(ROW, values_of(key)).await {
        Ok(rows) if rows.is_empty() => Err(ended()),
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn is_there(inbox: &SqlInbox, key: &ClaimKey) -> Result<bool, PortError> {
    Ok(!inbox.sql().read("reading back what was committed", ROW, values_of(key)).await?.is_empty())
}

/// Finds out what became of a COMMIT, by taking the row once more: that waits for the transaction in doubt to end. Taken, it was rolled back;
/// found, it was committed, by us or by whoever came after us. None: it did not tell in time.
async fn resolve(inbox: &SqlInbox, key: &ClaimKey) -> Option<bool> {
    let asking = async {
        loop {
            match inbox.take_within(key, TransactionLimits::default()).await {
                Ok((tx, Row::Ours)) => {
                    roll_back(tx).await;
                    return false;
                }
                Ok((_, Row::Done)) => return true,
                // Somebody else's: ours was rolled back before.
                Ok((_, Row::Conflict)) => return false,
                Ok((_, Row::Gone)) | Err(_) => sleep(RESOLVE_PAUSE).await,
            }
        }
    };
    timeout_at(Instant::now() + RESOLVE, asking).await.ok()
}
