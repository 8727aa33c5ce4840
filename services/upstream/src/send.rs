//! Step 1: store, publish, await the confirm
//!
//! One INSERT stores the message; only then is it published, and then its check ([`crate::schedule_check`]).
//!
//! What can fail, and what covers it: the caller goes away (commit and publish run in tasks of their own); the commit's answer is
//! lost (a tombstone finds out, [`crate::commit`]); the process dies after the commit (its successor adopts it, [`crate::adopt`]); the
//! broker is away, refuses, returns, or its confirm is lost (published again from the table, [`crate::catch_up`]). On a route that says
//! `on_full = "reject"`, what comes after a refusal is refused before it is stored ([`crate::fullness`]).
//! `Committed` and `Confirmed` are the same promise.
//!
//! A message whose route has mode `confirmed` is not stored: [`crate::confirmed`] takes it from here. Outcomes stay in order.

use std::sync::Arc;
use std::time::Duration;

use countersign_delivery::topology::Mode;
use countersign_delivery::{Fingerprint, Message, MessageId};
use countersign_telemetry::{failed, names, propagate};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, timeout_at};
use tracing::Span;

use crate::accept::{AnswerWhen, NewMessage, Rules, accept};
use crate::commit::{Row, Slip, Stored};
use crate::confirmed;
use crate::desk::Desk;
use crate::fullness::known;
use crate::ledger::Ticket;
use crate::refusal::Refusal;

/// A message that will be processed, or shown to a human.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its id.
    pub id: MessageId,
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
    /// The idempotency key was known: this is the first answer again.
    pub duplicate: bool,
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Committed, and the broker has confirmed message and check.
    Confirmed(Accepted),
    /// Committed; the broker has not confirmed within `confirm_wait_ms`, or was not waited for.
    Committed(Accepted),
    /// Not accepted.
    Refused(Refusal),
}

/// Stores and publishes messages; one outcome each, in order.
pub(crate) async fn send(desk: &Arc<Desk>, batch: Vec<NewMessage>) -> Vec<Outcome> {
    // Gather.
    let commit_by = Instant::now() + Duration::from_millis(desk.config.commit_wait_ms);

    // Decide.
    let judged: Vec<_> = batch.into_iter().map(|new| (new.answer_when, judge(desk, new))).collect();
    let ways: Vec<Way> = judged.iter().map(|(_, judged)| Way::of(desk, judged)).collect();

    // Act.
    let (mut stored, mut unstored, mut full) = (Vec::new(), Vec::new(), Vec::new());
    for (way, (answer_when, judged)) in ways.iter().zip(judged) {
        match (way, judged) {
            (Way::Unstored, Ok(message)) => unstored.push(message),
            (Way::Full, Ok(message)) => full.push(message),
            (_, judged) => stored.push((answer_when, judged)),
        }
    }
    let (stored, unstored, full) = futures::join!(
        send_stored(desk, stored, commit_by),
        confirmed::send(desk, unstored),
        known::answers(desk, full, commit_by)
    );
    let (mut stored, mut unstored, mut full) = (stored.into_iter(), unstored.into_iter(), full.into_iter());
    let in_order = ways.iter().filter_map(|way| match way {
        Way::Stored => stored.next(),
        Way::Unstored => unstored.next(),
        Way::Full => full.next(),
    });
    let outcomes: Vec<Outcome> = in_order.collect();
    count_refused(&outcomes);
    outcomes
}

/// Where a message of a batch goes.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Into the table and to the broker; or it is refused already.
    Stored,
    /// To the broker alone.
    Unstored,
    /// Back: its queues refuse, and its route wants to be told.
    Full,
}

impl Way {
    fn of(desk: &Desk, judged: &Result<Message, Refusal>) -> Self {
        match judged {
            Ok(message) if desk.fullness.refuses(&desk.topology, message) => Self::Full,
            Ok(message) if message.mode == Mode::Confirmed => Self::Unstored,
            Ok(_) | Err(_) => Self::Stored,
        }
    }
}

/// Commits, publishes, and awaits the confirms that are waited for.
async fn send_stored(desk: &Arc<Desk>, judged: Vec<(AnswerWhen, Result<Message, Refusal>)>, commit_by: Instant) -> Vec<Outcome> {
    if judged.is_empty() {
        return Vec::new();
    }
    let (answer_when, judged): (Vec<_>, _) = judged.into_iter().unzip();
    let pending = store(desk, judged, commit_by).await;
    let mut stored = Vec::with_capacity(pending.len());
    for pending in pending {
        stored.push(match pending {
            Ok(pending) => pending.stored(desk, commit_by).await,
            Err(refusal) => Err(Outcome::Refused(refusal)),
        });
    }
    let confirm_by = Instant::now() + Duration::from_millis(desk.config.confirm_wait_ms);
    let mut outcomes = Vec::with_capacity(stored.len());
    for (stored, answer_when) in stored.into_iter().zip(answer_when) {
        outcomes.push(match (stored, answer_when) {
            (Ok(unconfirmed), AnswerWhen::Confirmed) => unconfirmed.confirmed(confirm_by).await,
            (Ok(unconfirmed), AnswerWhen::Committed) => unconfirmed.committed(),
            (Err(outcome), _) => outcome,
        });
    }
    outcomes
}

/// The message, or why it is not taken. Its id is for a message that is not stored: one that is gets another, with its seq ([`crate::ledger`]).
pub(crate) fn judge(desk: &Desk, new: NewMessage) -> Result<Message, Refusal> {
    let rules = Rules {
        topology: &desk.topology,
        default_exchange: &desk.config.default_exchange,
        max_body_bytes: desk.config.max_body_bytes,
    };
    let id = MessageId::new(desk.ids.uuid()).map_err(|error| Refusal::Broken(error.to_string()))?;
    accept(new, rules, id, desk.clock.now())
}

fn count_refused(outcomes: &[Outcome]) {
    for outcome in outcomes {
        if let Outcome::Refused(refusal) = outcome {
            metrics::counter!(names::REFUSED_TOTAL, "reason" => refusal.word()).increment(1);
        }
    }
}

/// A message on its way, seen from its caller.
struct Pending {
    fingerprint: Fingerprint,
    stored: oneshot::Receiver<Stored>,
    settled: oneshot::Receiver<()>,
    span: Span,
}

/// Puts the sound ones in line for the commit.
async fn store(desk: &Desk, judged: Vec<Result<Message, Refusal>>, commit_by: Instant) -> Vec<Result<Pending, Refusal>> {
    let bodies: Vec<usize> = judged.iter().flatten().map(|message| message.body.len()).collect();
    let room = timeout_at(commit_by, desk.queued.wait_for_all(&bodies)).await;
    let Ok(Some(room)) = room else {
        let what = format!("too many bytes wait for the database (max_queued_bytes {})", desk.config.max_queued_bytes);
        let refusal = Refusal::Exhausted { what, retry_ms: desk.config.retry_after_ms };
        return judged.into_iter().map(|judged| Err(judged.err().unwrap_or_else(|| refusal.clone()))).collect();
    };
    let (mut room, mut rows) = (room.into_iter(), Vec::with_capacity(bodies.len()));
    let pending = judged.into_iter().map(|judged| {
        let (message, queued) = judged.and_then(|message| Ok((message, room.next().ok_or_else(stopping)?)))?;
        let (row, pending) = row_of(desk, message, queued)?;
        rows.push(row);
        Ok(pending)
    });
    let pending: Vec<_> = pending.collect();
    // Looked at last: the stop waits until no row is queued, and these count as soon as they hold room.
    if desk.stop.is_soft() {
        return pending.into_iter().map(|pending| pending.and_then(|_| Err(stopping()))).collect();
    }
    desk.commits.push(rows);
    pending
}

pub(crate) fn stopping() -> Refusal {
    Refusal::Unavailable("this upstream is stopping".into())
}

fn row_of(desk: &Desk, message: Message, queued: OwnedSemaphorePermit) -> Result<(Row, Pending), Refusal> {
    let place = desk.place()?;
    let (message, span) = traced(message);
    let (answer, stored) = oneshot::channel();
    let (settled_sender, settled) = oneshot::channel();
    let pending = Pending { fingerprint: message.fingerprint.clone(), stored, settled, span };
    let ticket = Ticket { settled: Some(settled_sender), place: Some(place) };
    Ok((Row { message, ticket, slip: Slip { answer, tries: 0, _queued: queued } }, pending))
}

impl Pending {
    /// Waits for the commit; an outcome at once unless it was committed just now.
    async fn stored(self, desk: &Desk, commit_by: Instant) -> Result<Unconfirmed, Outcome> {
        let Self { fingerprint, stored, settled, span } = self;
        let outcome = match timeout_at(commit_by, stored).await {
            Ok(Ok(Stored::Committed(id))) => {
                names_its_message(&span, id);
                let accepted = Accepted { id, fingerprint, duplicate: false };
                return Ok(Unconfirmed { accepted, settled, span });
            }
            Ok(Ok(Stored::Repeat(id, is_settled))) => {
                let accepted = Accepted { id, fingerprint, duplicate: true };
                if is_settled { Outcome::Confirmed(accepted) } else { Outcome::Committed(accepted) }
            }
            Ok(Ok(Stored::Refused(refusal))) => Outcome::Refused(refusal),
            Ok(Err(_)) => Outcome::Refused(stopping()),
            Err(_) => {
                let words = format!("the database has not answered within {} ms", desk.config.commit_wait_ms);
                Outcome::Refused(Refusal::Unavailable(words))
            }
        };
        note_outcome(&span, &outcome);
        Err(outcome)
    }
}

/// A committed message whose confirm is awaited.
#[derive(Debug)]
pub(crate) struct Unconfirmed {
    pub accepted: Accepted,
    pub settled: oneshot::Receiver<()>,
    pub span: Span,
}

impl Unconfirmed {
    pub(crate) async fn confirmed(self, confirm_by: Instant) -> Outcome {
        let outcome = match timeout_at(confirm_by, self.settled).await {
            Ok(Ok(())) => Outcome::Confirmed(self.accepted),
            // In time or not: another process publishes it, or this one does later.
            Ok(Err(_)) | Err(_) => Outcome::Committed(self.accepted),
        };
        note_outcome(&self.span, &outcome);
        outcome
    }

    fn committed(self) -> Outcome {
        let outcome = Outcome::Committed(self.accepted);
        note_outcome(&self.span, &outcome);
        outcome
    }
}

impl Outcome {
    /// The one word for it.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Confirmed(_) => "confirmed",
            Self::Committed(_) => "committed",
            Self::Refused(_) => "refused",
        }
    }
}

/// The message with the span whose context travels with it.
pub(crate) fn traced(mut message: Message) -> (Message, Span) {
    let span = span(&message);
    message.trace = propagate::of(&span)
        .map(|(traceparent, tracestate)| countersign_delivery::TraceContext { traceparent, tracestate })
        .or(message.trace);
    (message, span)
}

/// From now on the span tells which message it is about.
pub(crate) fn names_its_message(span: &Span, id: MessageId) {
    span.record(names::MESSAGING_MESSAGE_ID, tracing::field::display(id));
}

/// What the span tells at its end: a repeat names the message that was stored before, a refusal makes it a failed one.
pub(crate) fn note_outcome(span: &Span, outcome: &Outcome) {
    let word = match outcome {
        Outcome::Confirmed(accepted) | Outcome::Committed(accepted) if accepted.duplicate => {
            names_its_message(span, accepted.id);
            "duplicate"
        }
        Outcome::Refused(refusal) => {
            failed(span, refusal.word());
            outcome.word()
        }
        Outcome::Confirmed(_) | Outcome::Committed(_) => outcome.word(),
    };
    span.record(names::OUTCOME, word);
}

fn span(message: &Message) -> Span {
    let span = tracing::info_span!(
        names::SPAN_SEND,
        { names::OTEL_NAME } = %names::span_name(names::SPAN_SEND, &message.exchange),
        { names::OTEL_KIND } = names::PRODUCER,
        { names::STEP } = "1",
        { names::MESSAGING_SYSTEM } = names::RABBITMQ,
        { names::MESSAGING_OPERATION_TYPE } = names::SEND,
        { names::MESSAGING_OPERATION_NAME } = names::SPAN_SEND,
        { names::MESSAGING_DESTINATION } = message.exchange,
        { names::MESSAGING_ROUTING_KEY } = message.routing_key,
        { names::MESSAGING_MESSAGE_ID } = tracing::field::Empty,
        { names::MESSAGING_BODY_SIZE } = names::int(message.body.len()),
        { names::ATTEMPT } = 1,
        { names::OUTCOME } = tracing::field::Empty,
        { names::ERROR_TYPE } = tracing::field::Empty,
        { names::OTEL_STATUS_DESCRIPTION } = tracing::field::Empty,
    );
    if let Some(trace) = message.trace.as_ref().filter(|_| !span.is_disabled()) {
        propagate::set_parent(&span, &trace.traceparent, trace.tracestate.as_deref());
    }
    span
}

#[cfg(test)]
mod tests;
