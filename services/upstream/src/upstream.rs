//! A running upstream, as the process it lives in sees it.

use std::pin::Pin;
use std::sync::Arc;

use countersign_audit::Auditor;
use countersign_boot::Context;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::outbox::{OutboxRow, Released};
use countersign_delivery::ports::stored::StoredRow;
use countersign_delivery::reconcile::Window;
use countersign_delivery::{MessageId, StoredMessage, SubscriptionName, Topology, TraceContext, UpstreamName};
use countersign_store::Database;
use tokio_util::sync::CancellationToken;

use crate::accept::NewMessage;
use crate::check_queue::CheckQueue;
use crate::config::UpstreamSection;
use crate::desk::{Desk, Ports};
use crate::digest::{DigestError, StoredSums};
use crate::keeper::Vitals;
use crate::lookup::{By, Found};
use crate::outbox::outcomes::KnownQueue;
use crate::outbox::{operate, outcomes, sweep};
use crate::refusal::Refusal;
use crate::resend::{Order, Outcome as Resent};
use crate::send::{Outcome, stopping};
use crate::source::rebuild::{self, Whole};
use crate::transaction::{Committed, Transaction, TransactionError, Transactions};
use crate::{adopt, catch_up, check_queue, commit, counters, digest, keeper, lookup, resend, retention, send, transaction};

/// Sends messages. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Upstream(Arc<Desk>, Option<Transactions>);

impl Upstream {
    /// Most messages of one batch, and orders of one call.
    pub const MAX_BATCH_MESSAGES: usize = 500;
    /// Most bytes of one batch of several messages, headers included.
    pub const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;

    /// Starts the tasks of an upstream on these ports; they end after the stop of `context`, when everything is drained.
    pub(crate) fn start(
        section: UpstreamSection,
        topology: Topology,
        ports: Ports,
        context: &Context,
        vitals: Vitals,
        finished: CancellationToken,
    ) -> Self {
        counters::start_at_zero();
        let (checks, receiver) = CheckQueue::new();
        let (known, outcomes) = KnownQueue::new();
        let desk = Desk::new(section, topology, ports, context, (checks, known), finished);
        let tasks = &desk.tasks;
        for _ in 0..desk.config.committers {
            tasks.critical("commit", ended(commit::run(desk.clone())));
        }
        tasks.critical("check batches", ended(check_queue::run(desk.clone(), receiver)));
        tasks.critical("catching up", ended(catch_up::run(desk.clone())));
        tasks.critical("outbox outcomes", ended(outcomes::run(desk.clone(), outcomes)));
        tasks.critical("outbox sweep", ended(sweep::run(desk.clone())));
        tasks.critical("outbox count", ended(sweep::count(desk.clone())));
        tasks.critical("adoption", ended(adopt::run(desk.clone())));
        tasks.critical("retention", ended(retention::run(desk.clone())));
        tasks.critical("heartbeat", ended(keeper::run(desk.clone(), vitals)));
        Self(desk, None)
    }

    /// The same, with the database in which its callers' transactions run.
    pub(crate) fn with_database(self, database: Database) -> Self {
        let transactions = Transactions::new(database, self.0.config.max_transactions);
        Self(self.0, Some(transactions))
    }

    /// Sends one message: stores it, publishes it, and waits a moment for the broker.
    pub async fn send(&self, message: NewMessage) -> Outcome {
        send::send(&self.0, vec![message]).await.pop().unwrap_or_else(|| Outcome::Refused(stopping()))
    }

    /// Sends up to [`Self::MAX_BATCH_MESSAGES`] messages of [`Self::MAX_BATCH_BYTES`] altogether; one outcome each, in order.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] when the batch is empty or has too many messages, [`Refusal::TooLarge`] when it has too many bytes; then none was accepted.
    pub async fn send_batch(&self, batch: Vec<NewMessage>) -> Result<Vec<Outcome>, Refusal> {
        Self::batch_fits(batch.len(), batch.iter().map(NewMessage::bytes).sum())?;
        Ok(send::send(&self.0, batch).await)
    }

    /// Runs business statements and sends in one transaction of upstream's own database: all of it is committed, or nothing.
    ///
    /// `work` gets the transaction, and returns `Ok` to commit it or `Err` to roll it back; a panic, a time-out
    /// (`transaction_timeout_ms`) and a dropped future roll it back too. From COMMIT on nobody can take it back: if this future is dropped
    /// then, or the answer is lost, the messages are found out and published all the same. Messages are published after the commit only.
    ///
    /// Keep it short: it holds its locks until it ends, on `SQLite` the only connection that writes, so a plain [`Self::send`] within it
    /// waits in vain there. A savepoint that it begins must end within it.
    ///
    /// # Errors
    /// [`TransactionError`]; only [`TransactionError::Unknown`] may have been committed.
    pub async fn transaction<F, T, E>(&self, work: F) -> Result<Committed<T>, TransactionError<E>>
    where
        F: for<'c> FnOnce(&'c Transaction) -> Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'c>> + Send,
    {
        transaction::run(&self.0, self.1.as_ref(), work).await
    }

    /// Whether a batch of so many messages and bytes is taken at all.
    pub(crate) fn batch_fits(messages: usize, bytes: usize) -> Result<(), Refusal> {
        if messages == 0 || messages > Self::MAX_BATCH_MESSAGES {
            let words = format!("the batch has {messages} messages; 1 to {} are accepted", Self::MAX_BATCH_MESSAGES);
            return Err(Refusal::Invalid(words));
        }
        if bytes > Self::MAX_BATCH_BYTES {
            let words = format!("the batch has {bytes} bytes; at most {} are accepted: split it", Self::MAX_BATCH_BYTES);
            return Err(Refusal::TooLarge(words));
        }
        Ok(())
    }

    /// Whether nothing more is accepted.
    pub(crate) fn is_stopping(&self) -> bool {
        self.0.stop.is_soft()
    }

    /// Finds a stored message. Its body is empty when it is not stored (see [`crate::MessageSource`]).
    ///
    /// # Errors
    /// [`PortError`] of the database.
    pub async fn find(&self, by: &By) -> Result<Option<Found>, PortError> {
        lookup::find(&self.0, by).await
    }

    /// The same with its body, if that is not stored; or why it cannot be shown.
    pub(crate) async fn with_body(&self, found: Found) -> Result<Found, String> {
        let id = found.stored.message.id;
        let message = match rebuild::whole(&self.0, found.stored.message).await {
            Whole::Ready(message) => message,
            Whole::Changed(_) => {
                return Err(format!("the body of message {id} is not stored, and its source gives another one now"));
            }
            Whole::Gone(_) => return Err(format!("the body of message {id} is not stored, and its source has it no more")),
            Whole::NotNow(_, why) => return Err(format!("the body of message {id} cannot be shown: {why}")),
        };
        let stored = StoredMessage { message, position: found.stored.position };
        Ok(Found { stored, ..found })
    }

    /// Rows of mode `outbox` that wait for a human, by ascending id, from after `after` on; bodies are left empty.
    ///
    /// # Errors
    /// [`PortError`] of the database.
    pub async fn list_outbox(&self, after: Option<MessageId>, limit: u32) -> Result<Vec<OutboxRow>, PortError> {
        operate::list(&self.0, after, limit).await
    }

    /// Whose messages these are.
    pub(crate) fn name(&self) -> &UpstreamName {
        &self.0.config.name
    }

    /// What is stored in a window, in sums.
    pub(crate) async fn sums(&self, window: Window) -> Result<StoredSums, DigestError> {
        digest::sums(&self.0, window).await
    }

    /// What is stored in a window for a subscription, a page of it; and where the next one begins.
    pub(crate) async fn list_stored(
        &self,
        window: Window,
        subscription: &SubscriptionName,
        after: Option<MessageId>,
        limit: usize,
    ) -> Result<(Vec<StoredRow>, Option<MessageId>), PortError> {
        digest::list(&self.0, window, subscription, after, limit).await
    }

    /// Who writes down what operators do here.
    pub(crate) fn auditor(&self, context: &Context) -> Auditor {
        let desk = &self.0;
        Auditor::new(context, ("upstream", desk.config.name.as_str()), desk.publisher.clone(), &desk.topology)
    }

    /// Releases rows of mode `outbox` that wait for a human; one answer each, in order. No act of an operator: it is in no audit.
    ///
    /// # Errors
    /// [`PortError`] of the database.
    pub async fn release(&self, ids: &[MessageId]) -> Result<Vec<Released>, PortError> {
        operate::release(&self.0, ids).await
    }

    /// Publishes messages again, each with a new check; one outcome each, in order. `caller` is the trace that ordered it.
    pub async fn resend(&self, orders: &[Order], caller: Option<&TraceContext>) -> Vec<Resent> {
        resend::resend(&self.0, orders, caller).await
    }
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Upstream").field(&self.0.config.name).finish()
    }
}

async fn ended(task: impl Future<Output = ()>) -> anyhow::Result<()> {
    task.await;
    Ok(())
}
