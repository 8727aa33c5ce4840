//! What a team writes: the handler of one subscription.

use std::sync::Arc;

use async_trait::async_trait;
use countersign_delivery::SubscriptionName;
use countersign_delivery::topology::Guard;

pub use crate::guard::transaction::Transaction;
/// The message as a handler sees it: id, upstream, type, headers, body, and where it was meant to go.
pub use countersign_wire::arrival::Arrival as Event;

/// Does what a message asks for. One handler serves one subscription; calls run side by side, up to the subscription's `concurrency`.
///
/// The effect has happened when [`handle`](Self::handle) answers `Ok`. A handler that is dropped at an await (time-out, hard stop) or panics
/// is called again for the same message later; so is one whose process dies. What that means for the effect is the guard's promise;
/// a handler that stores `context.idempotency_key` with its effect makes it exactly once.
#[async_trait]
pub trait Handler: Send + Sync {
    /// Handles one message.
    ///
    /// # Errors
    /// [`Failure::Retry`] sends it through the retry tiers, [`Failure::Reject`] to the dead-letter queue and to a human.
    async fn handle(&self, message: &Event, context: &HandlerContext) -> Result<Handled, Failure>;
}

/// Does what a message asks for, within the transaction that marks the message as done: for the guards `inbox` and `tiered`. What it writes
/// through [`Transaction::connection`] is committed exactly if it answers `Ok` and the message's mark is; so the effect happens exactly once.
///
/// What it does elsewhere (a call over the network, another database) is outside that promise. It does not end the transaction itself. Keep
/// it short: it holds locks, and on SQLite the only connection that writes.
#[async_trait]
pub trait TransactionHandler: Send + Sync {
    /// Handles one message.
    ///
    /// # Errors
    /// [`Failure`], as [`Handler::handle`] has it; the transaction is rolled back, as it is after a time-out or a panic.
    async fn handle(&self, message: &Event, context: &HandlerContext, transaction: &Transaction) -> Result<Handled, Failure>;
}

/// A handler of either kind, as a subscription is given it.
#[derive(Clone)]
pub(crate) enum AnyHandler {
    Direct(Arc<dyn Handler>),
    InTransaction(Arc<dyn TransactionHandler>),
}

impl AnyHandler {
    /// Whether it can be called under this guard.
    pub(crate) const fn fits(&self, guard: Guard) -> bool {
        matches!(self, Self::InTransaction(_)) == guard.in_transaction()
    }
}

/// What is known about this call beside the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandlerContext {
    /// For whom the message is handled.
    pub subscription: SubscriptionName,
    /// The same for every call about this effect: the message's id; for a further effect that an operator allowed,
    /// `<id>/<effect epoch>`.
    pub idempotency_key: String,
    /// How often handling it was started, this time included. Counted afresh when an operator orders the message anew.
    pub starts: u32,
    /// How many of those starts ended with a crash, so that nobody knows whether they had their effect (within a
    /// transaction: they had none); 0 as a rule. Those before an operator's
    /// order are not among them.
    pub crashes: u32,
    /// How long this call may take, milliseconds; then it is dropped.
    pub timeout_ms: u64,
}

/// The effect is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    /// It happened now.
    Done,
    /// It had happened before; the handler has recognised the message.
    Duplicate,
}

/// There was no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It may succeed later.
    Retry {
        /// For a human: a short text, never a payload.
        detail: String,
    },
    /// It will never succeed.
    Reject {
        /// For a human: a short text, never a payload.
        detail: String,
    },
}

impl Failure {
    /// It may succeed later; with the words of an error.
    pub fn retry(error: impl std::fmt::Display) -> Self {
        Self::Retry { detail: error.to_string() }
    }

    /// It will never succeed; with the words of an error.
    pub fn reject(error: impl std::fmt::Display) -> Self {
        Self::Reject { detail: error.to_string() }
    }
}
