//! Guards `inbox` and `tiered`: the handler runs in the transaction that writes its message down as done.
//!
//! Begin and take the message's row → handler → commit. What can fail: somebody else has the row in an open transaction, or it is there
//! already; the handler fails, panics or takes too long (rolled back); the database goes away; the answer to COMMIT is lost (the store asks
//! for the row); the process dies. What covers that: effect and row are there together or not at all, so what comes again is found done or
//! has had no effect.

use countersign_boot::{Failpoint, failpoint};
use countersign_delivery::ports::claims::Claim;
use countersign_store::{Committed, Database, DatabaseTransaction, InboxTransaction, Taking, TransactionLimits};
use countersign_telemetry::with_sources;

use super::{Effect, count_recognised};
use crate::gate::Gate;
use crate::handler::{Failure, Handled};

/// For so much longer than its handler may take may a transaction sit still before the server ends it, milliseconds.
const IDLE_MARGIN_MS: u64 = 5_000;

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
    database: Database,
    gate: Gate,
    limits: TransactionLimits,
}

impl Transactions {
    /// In this database, which has this gate, for handlers that may take so long, milliseconds.
    #[must_use]
    pub fn new(database: Database, gate: Gate, timeout_ms: u64) -> Self {
        let defaults = TransactionLimits::default();
        let limits = TransactionLimits {
            statement_timeout_ms: timeout_ms.max(defaults.statement_timeout_ms),
            idle_timeout_ms: timeout_ms.saturating_add(IDLE_MARGIN_MS).max(defaults.idle_timeout_ms),
            ..defaults
        };
        Self { database, gate, limits }
    }

    /// Begins one and takes the message's row in it.
    ///
    /// # Errors
    /// [`Effect`], when there is nothing to handle: that is what became of the message.
    pub(crate) async fn begin(&self, claim: &Claim) -> Result<Transaction, Effect> {
        match self.database.inbox().begin(claim, self.limits).await {
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
                match transaction.0.commit().await {
                    Committed::Yes => Effect::Happened,
                    Committed::RolledBack(error) => self.unless_away(Failure::retry(with_sources(&error))).await,
                    Committed::Unknown(error) => self.away(&error),
                }
            }
            Err(failure) => {
                transaction.0.roll_back().await;
                self.unless_away(failure).await
            }
        }
    }

    /// What fails because the database goes away has not failed by itself: it costs no try.
    async fn unless_away(&self, failure: Failure) -> Effect {
        if matches!(failure, Failure::Retry { .. })
            && let Err(error) = self.database.ping().await
        {
            return self.away(&error);
        }
        Effect::Failed(failure)
    }

    fn away(&self, error: &(dyn std::error::Error + 'static)) -> Effect {
        self.gate.close(&with_sources(error));
        Effect::RecordAway
    }
}
