//! A running upstream, as the process it lives in sees it.

use std::sync::Arc;

use countersign_boot::Context;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::outbox::{OutboxRow, Released};
use countersign_delivery::{MessageId, Topology, TraceContext};
use tokio_util::sync::CancellationToken;

use crate::accept::NewMessage;
use crate::check_queue::CheckQueue;
use crate::config::UpstreamSection;
use crate::desk::{Desk, Ports};
use crate::keeper::Vitals;
use crate::lookup::{By, Found};
use crate::outbox::outcomes::KnownQueue;
use crate::outbox::{operate, outcomes, sweep};
use crate::refusal::Refusal;
use crate::resend::{Order, Outcome as Resent};
use crate::send::{Outcome, stopping};
use crate::{adopt, catch_up, check_queue, commit, keeper, lookup, resend, retention, send};

/// Sends messages. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Upstream(Arc<Desk>);

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
        Self(desk)
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

    /// Finds a stored message.
    ///
    /// # Errors
    /// [`PortError`] of the database.
    pub async fn find(&self, by: &By) -> Result<Option<Found>, PortError> {
        lookup::find(&self.0, by).await
    }

    /// Rows of mode `outbox` that wait for a human, by ascending id, from after `after` on; bodies are left empty.
    ///
    /// # Errors
    /// [`PortError`] of the database.
    pub async fn list_outbox(&self, after: Option<MessageId>, limit: u32) -> Result<Vec<OutboxRow>, PortError> {
        operate::list(&self.0, after, limit).await
    }

    /// Releases rows of mode `outbox` that wait for a human; one answer each, in order.
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
