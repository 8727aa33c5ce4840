//! Guards `inbox` and `tiered`: the handler runs in the transaction that writes its message down as done.
//!
//! Begin and take the message's row → handler → commit. What can fail: somebody else has the row in an open transaction, or it is there
//! already; the handler fails, panics or takes too long (rolled back); the database goes away; the answer to COMMIT is lost (the store asks
//! for the row); the process dies. What covers that: effect and row are there together or not at all, so what comes again is found done or
//! has had no effect.

use countersign_boot::{Failpoint, failpoint};
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::claims::Claim;
use countersign_store::{Committed, DatabaseTransaction, InboxTransaction, SqlInbox, Taking, TransactionLimits};
use countersign_telemetry::with_sources;

use super::{Effect, count_recognised};
use crate::gate::Gate;
use crate::handler::{Failure, Handled};

/// The open transaction of one message, lent to its handler. Whatever is written through it is there exactly if the message is done.
#[derive(Debug)]
pub struct Transaction(InboxTransaction);

impl Transaction {
    /// For the business statements: sea-orm's `ConnectionTrait`, and its `TransactionTrait` for savepoints.
    #[must_use]
    pub const fn connection(&self) -> &DatabaseTransaction {
        self.0.connection()
    }
}

/// Where the transactions of one subscription run.
#[derive(Clone, Debug)]
pub struct Transactions {
    inbox: SqlInbox,
    database: Gate,
    limits: TransactionLimits,
}

impl Transactions {
    /// In this inbox, whose database has this gate.
    #[must_use]
    pub const fn new(inbox: SqlInbox, database: Gate, limits: TransactionLimits) -> Self {
        Self { inbox, database, limits }
    }

    /// Begins one and takes the message's row in it.
    ///
    /// # Errors
    /// [`Effect`], when there is nothing to handle: that is what became of the message.
    pub(crate) async fn begin(&self, claim: &Claim) -> Result<Transaction, Effect> {
        match self.inbox.begin(claim, self.limits).await {
            Ok(Taking::Ours(transaction)) => Ok(Transaction(transaction)),
            Ok(Taking::Done) => {
                count_recognised(&claim.key.subscription);
                Err(Effect::HadHappened)
            }
            Ok(Taking::Conflict) => Err(Effect::Conflict),
            Ok(Taking::Busy) => Err(Effect::Busy),
            Err(error) => Err(self.away(&error)),
        }
    }

    /// Ends it as the handler's answer has it.
    pub(crate) async fn end(&self, transaction: Transaction, handled: Result<Handled, Failure>) -> Effect {
        match handled {
            Ok(_) => {
                failpoint(Failpoint::DownstreamBeforeCommit);
                self.commit(transaction).await
            }
            Err(failure) => self.roll_back(transaction, failure).await,
        }
    }

    async fn commit(&self, transaction: Transaction) -> Effect {
        match transaction.0.commit().await {
            Committed::Yes => Effect::Happened,
            Committed::Unknown(error) => self.away(&error),
            // The database says no to this transaction, or it is going away: it is asked which.
            Committed::RolledBack(error) => match self.inbox.ping().await {
                Ok(()) => Effect::Failed(Failure::retry(with_sources(&error))),
                Err(_) => self.away(&error),
            },
        }
    }

    /// A handler that fails because the database goes away has not failed by itself.
    async fn roll_back(&self, transaction: Transaction, failure: Failure) -> Effect {
        match (transaction.0.roll_back().await, failure) {
            (Err(error), Failure::Retry { .. }) if error.is_transient() => self.away(&error),
            (_, failure) => Effect::Failed(failure),
        }
    }

    fn away(&self, error: &PortError) -> Effect {
        self.database.close(&with_sources(error));
        Effect::RecordAway
    }
}
