//! What makes the effect of a message happen once: the guard of its subscription.
//!
//! All guards claim, complete and release through one trait, [`Claims`](countersign_delivery::ports::claims::Claims).
//!
//! | guard | its claims | the handler |
//! |---|---|---|
//! | `redis` | Redis | is called |
//! | `inbox` | the database: what comes again is looked up | runs in the transaction that marks its message ([`transaction`]) |
//! | `tiered` | Redis | as under `inbox` |
//! | `redis+archive` | Redis, and the database behind it ([`archived`]) | is called |
//!
//! **Invariant:** a record that does not answer closes its gate ([`watched`]) and is never taken for one that knows nothing.

pub mod archived;
pub mod transaction;
pub mod watched;

use std::sync::Arc;

use countersign_delivery::SubscriptionName;
use countersign_telemetry::names;

use crate::handler::{Failure, Handler, TransactionHandler};
use transaction::Transactions;

/// How the handler of one subscription is called.
#[derive(Clone)]
pub enum Handling {
    /// Its effect is its own business.
    Direct(Arc<dyn Handler>),
    /// Its effect is in the guard's transaction.
    InTransaction(Arc<dyn TransactionHandler>, Transactions),
}

/// What became of a message that was claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It happened now.
    Happened,
    /// It had happened before, which only the database knew.
    HadHappened,
    /// Its id is done under another fingerprint.
    Conflict,
    /// Somebody else has it in an open transaction.
    Busy,
    /// The database cannot be used, or has not said whether it committed; the gate is closed. What is committed is found by the next delivery.
    RecordAway,
    /// There was none.
    Failed(Failure),
}

/// Counts a message that came again, which the claims did not know to be done and the database did.
pub(crate) fn count_recognised(subscription: &SubscriptionName) {
    metrics::counter!(names::INBOX_RECOGNISED_TOTAL, "subscription" => subscription.to_string()).increment(1);
}
