//! Step 4: publish the acknowledgement (receipt)
//!
//! And await its confirm. What can fail: the publish is refused, returned or not answered; the process dies before the confirm. What covers that: it is published
//! again until it is confirmed, and the message is acked only after that, so a message whose receipt is not safe comes again and, its
//! key being done, is signed again. A receipt that is lost later makes callback have the message sent again, with the same end.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use countersign_boot::{Failpoint, Stop, Tasks, failpoint};
use countersign_delivery::message::TraceContext;
use countersign_delivery::ports::Ids;
use countersign_delivery::ports::broker::{Published, Publisher};
use countersign_delivery::receipt::{Outcome as Signed, ProbeAnswer, Receipt, ReceiptBatch};
use countersign_telemetry::{failed, names, propagate};
use countersign_wire::{publication, receipts};
use tracing::Instrument as _;

use crate::batcher::{Batcher, Limits};

/// Receipt batches that may be on their way to the broker at a time.
const CALLS: usize = 8;
/// The first pause before a batch is published again; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What became of one batch of receipts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The broker has it.
    Confirmed,
    /// Hard stop came first: it may be there or not, so nothing it stands for may be acked.
    GivenUp,
}

/// What can be signed.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// About a message.
    Receipt(Receipt),
    /// That a probe came through.
    Probe(ProbeAnswer),
}

/// What the step needs.
#[derive(Clone)]
pub struct Post {
    /// Where receipts are published.
    pub publisher: Arc<dyn Publisher>,
    /// For the ids of publications.
    pub ids: Arc<dyn Ids>,
    /// The receipts queue.
    pub queue: String,
    /// This downstream's name; leads the ids of its publications.
    pub name: String,
    /// Bounds the tries.
    pub stop: Stop,
}

/// Publishes a batch of statements as one message, again and again until it is confirmed.
pub async fn acknowledge(post: &Post, statements: Vec<Statement>) -> Outcome {
    // Gather.
    let body = receipts::encode(&batch_of(statements));
    let mut pause = PAUSE_MIN;
    loop {
        let id = format!("receipts/{}/{}", post.name, post.ids.uuid());
        let publications = vec![publication::to_queue(post.queue.clone(), id, body.clone())];
        let mut publishing = pin!(post.publisher.publish(publications));
        // One poll hands it to the publishing task.
        let published = match futures::poll!(&mut publishing) {
            std::task::Poll::Ready(published) => published,
            std::task::Poll::Pending => {
                tokio::task::yield_now().await;
                failpoint(Failpoint::DownstreamAfterReceiptPublish);
                publishing.await
            }
        };
        // Decide.
        let outcome = published.first().unwrap_or(&Published::Unknown);
        if *outcome == Published::Confirmed {
            return Outcome::Confirmed;
        }
        // Act.
        tracing::warn!(?outcome, queue = %post.queue, "receipts are not confirmed, publishing them again");
        tokio::select! {
            () = post.stop.hard() => return Outcome::GivenUp,
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
        }
    }
}

fn batch_of(statements: Vec<Statement>) -> ReceiptBatch {
    let mut batch = ReceiptBatch::default();
    for statement in statements {
        match statement {
            Statement::Receipt(receipt) => batch.receipts.push(receipt),
            Statement::Probe(answer) => batch.probes.push(answer),
        }
    }
    batch
}

/// Signs: collects statements of all subscriptions for a while and has them published together. Those of messages that are done can wait; what
/// else is signed holds up a handler, and takes along what waits.
#[derive(Clone)]
pub struct Signer {
    batches: Batcher<Statement, Outcome>,
    /// The receipts queue, for spans.
    queue: Arc<str>,
}

impl Signer {
    /// Starts the worker; it flushes what waits when the last signer is gone. A batch lingers for `enough` statements only.
    #[must_use]
    pub fn start(tasks: &Tasks, post: Post, max_batch: usize, linger: Duration, enough: usize) -> Self {
        let (stop, queue) = (post.stop.clone(), post.queue.as_str().into());
        let limits = Limits { max_batch, linger, enough, calls: CALLS };
        let batches = Batcher::start(tasks, &stop, "receipts", limits, move |statements: Vec<Statement>| {
            let (post, count) = (post.clone(), statements.len());
            async move { vec![acknowledge(&post, statements).await; count] }
        });
        Self { batches, queue }
    }

    /// Signs one receipt. True: it is confirmed, the message may be acked.
    pub async fn sign(&self, mut receipt: Receipt) -> bool {
        let span = tracing::info_span!(
            names::SPAN_ACKNOWLEDGE,
            { names::OTEL_NAME } = %names::span_name(names::SPAN_ACKNOWLEDGE, &self.queue),
            { names::STEP } = "4",
            { names::OTEL_KIND } = names::PRODUCER,
            { names::MESSAGING_SYSTEM } = names::RABBITMQ,
            { names::MESSAGING_OPERATION_TYPE } = names::SEND,
            { names::MESSAGING_OPERATION_NAME } = names::SPAN_ACKNOWLEDGE,
            { names::MESSAGING_DESTINATION } = &*self.queue,
            { names::MESSAGING_MESSAGE_ID } = %receipt.message_id,
            { names::ATTEMPT } = names::int(receipt.attempt.number),
            { names::EPOCH } = names::int(receipt.attempt.epoch),
            { names::OUTCOME } = word(&receipt.outcome),
            { names::REASON } = tracing::field::Empty,
            { names::ERROR_TYPE } = tracing::field::Empty,
            { names::OTEL_STATUS_DESCRIPTION } = tracing::field::Empty,
        );
        if let Signed::Failed { reason, .. } = &receipt.outcome {
            span.record(names::REASON, reason.as_str());
        }
        if let Some((traceparent, tracestate)) = propagate::of(&span) {
            receipt.trace = Some(TraceContext { traceparent, tracestate });
        }
        let (is_done, statement) = (receipt.outcome == Signed::Done, Statement::Receipt(receipt));
        let confirmed = async { if is_done { self.ask(statement).await } else { self.ask_at_once(statement).await } };
        let confirmed = confirmed.instrument(span.clone()).await;
        if !confirmed {
            failed(&span, "not_confirmed");
        }
        confirmed
    }

    /// Signs one probe. True: confirmed.
    pub async fn answer(&self, probe: ProbeAnswer) -> bool {
        self.ask(Statement::Probe(probe)).await
    }

    /// Signs that a message is still held. Nobody waits for it; when too much waits already the next report will do.
    pub fn report(&self, receipt: Receipt) -> bool {
        self.batches.mention(Statement::Receipt(receipt))
    }

    async fn ask(&self, statement: Statement) -> bool {
        self.batches.ask(statement).await == Some(Outcome::Confirmed)
    }

    async fn ask_at_once(&self, statement: Statement) -> bool {
        self.batches.ask_at_once(statement).await == Some(Outcome::Confirmed)
    }
}

const fn word(outcome: &Signed) -> &'static str {
    match outcome {
        Signed::Done => "done",
        Signed::Failed { .. } => "failed",
        Signed::Retrying { .. } => "retrying",
        Signed::Processing { .. } => "processing",
    }
}
