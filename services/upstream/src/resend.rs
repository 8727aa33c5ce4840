//! Step 7b: publish again, attempt + 1
//!
//! Callback orders it for messages that nobody signed for. The stored message goes straight to the work queues of the subscriptions
//! named, and a new check follows it; `Resent` only when the broker has both.
//!
//! What can fail: anything between look-up and answer. Callback has stored its order first and repeats it with the same attempt, and
//! downstream processes a message once however often it comes; so everything but `Resent` simply means "order it again".

use std::collections::HashSet;

use countersign_boot::{Failpoint, failpoint};
use countersign_delivery::ports::broker::{Publication, Published};
use countersign_delivery::{Attempt, Fingerprint, Message, MessageId, SubscriptionName, TraceContext};
use countersign_telemetry::{failed, names, propagate};
use countersign_wire::publication::{Publish, to_subscription};
use tokio::sync::oneshot;
use tracing::Span;

use crate::check_queue::{Done, Scheduled};
use crate::desk::Desk;
use crate::incarnations::note;
use crate::publish::publish_all;
use crate::source::rebuild::{self, Whole};

/// An order to send one message again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Which message.
    pub id: MessageId,
    /// The try to publish.
    pub attempt: Attempt,
    /// The epoch in which an operator allowed a further effect, which the message carries to its consumers; 0: never.
    pub effect_epoch: u32,
    /// For whom; empty: everyone who is required.
    pub subscriptions: Vec<SubscriptionName>,
    /// What callback knows the message by.
    pub fingerprint: Fingerprint,
}

/// What became of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The broker has message and check.
    Resent,
    /// The broker has not confirmed both, or the database did not answer: order it again. The text is for a human.
    NotConfirmed(String),
    /// No such message.
    UnknownId,
    /// Stored under another fingerprint, or its source gives another body.
    Changed,
    /// Its body is not stored, and its source has it no more.
    Gone,
}

/// Carries orders out; one outcome each, in order.
pub(crate) async fn resend(desk: &Desk, orders: &[Order], caller: Option<&TraceContext>) -> Vec<Outcome> {
    let mut outcomes = Vec::with_capacity(orders.len());
    // By pages, so that the bodies of one call stay within their bound.
    for page in orders.chunks(desk.page_rows()) {
        outcomes.extend(resend_page(desk, page, caller).await);
    }
    outcomes
}

async fn resend_page(desk: &Desk, orders: &[Order], caller: Option<&TraceContext>) -> Vec<Outcome> {
    // Gather.
    if !desk.publisher.is_up() {
        return vec![Outcome::NotConfirmed("no connection to the broker".into()); orders.len()];
    }
    let ids: HashSet<MessageId> = orders.iter().map(|order| order.id).collect();
    let found = match desk.messages.get(&ids.into_iter().collect::<Vec<_>>()).await {
        Ok(found) => found,
        Err(error) => {
            note("messages to resend cannot be read", &error);
            return vec![Outcome::NotConfirmed("the database does not answer".into()); orders.len()];
        }
    };
    failpoint(Failpoint::ResendAfterLookup);

    let found = rebuild::all(desk, found.into_iter().map(|stored| stored.message).collect()).await;

    // Decide.
    let message_of = |order: &Order| found.iter().find(|whole| whole.message().id == order.id);
    let mut plans: Vec<Plan<'_>> = orders.iter().map(|order| Plan::of(order, message_of(order), caller)).collect();

    // Act.
    publish_messages(desk, &mut plans).await;
    schedule_checks(desk, &mut plans).await;
    failpoint(Failpoint::ResendAfterPublish);
    plans.into_iter().map(Plan::finish).collect()
}

/// One order on its way.
struct Plan<'a> {
    order: &'a Order,
    /// None once the outcome is certain.
    work: Option<Work>,
    outcome: Outcome,
    span: Span,
}

struct Work {
    /// As stored, but its trace goes on from this step.
    message: Message,
    targets: Vec<SubscriptionName>,
}

impl<'a> Plan<'a> {
    fn of(order: &'a Order, found: Option<&'a Whole>, caller: Option<&TraceContext>) -> Self {
        let span = span(order, found.map(Whole::message), caller);
        let no_work = |outcome| Self { order, work: None, outcome, span: span.clone() };
        let Some(whole) = found else { return no_work(Outcome::UnknownId) };
        if whole.message().fingerprint != order.fingerprint {
            return no_work(Outcome::Changed);
        }
        let stored = match whole {
            Whole::Ready(message) => message,
            Whole::Changed(_) => return no_work(Outcome::Changed),
            Whole::Gone(_) => return no_work(Outcome::Gone),
            Whole::NotNow(_, why) => return no_work(Outcome::NotConfirmed(why.clone())),
        };
        let targets = if order.subscriptions.is_empty() { stored.required.clone() } else { order.subscriptions.clone() };
        if let Some(stranger) = targets.iter().find(|name| !stored.required.contains(name)) {
            return no_work(Outcome::NotConfirmed(format!("{stranger} is not among those who must sign for this message")));
        }
        let outcome = Outcome::NotConfirmed(String::new());
        let goes_on = propagate::of(&span).map(|(traceparent, tracestate)| TraceContext { traceparent, tracestate });
        let message = Message { trace: goes_on.or_else(|| stored.trace.clone()), ..stored.clone() };
        Self { order, work: Some(Work { message, targets }), outcome, span }
    }

    /// One publication for each subscription.
    fn publications(&self, desk: &Desk) -> Vec<Publication> {
        let Some(work) = &self.work else { return Vec::new() };
        let Order { attempt, effect_epoch, .. } = *self.order;
        let publish = Publish { attempt, effect_epoch, again: true };
        let to = |subscription| to_subscription(&work.message, &desk.config.name, subscription, publish);
        work.targets.iter().map(to).collect()
    }

    fn note(&mut self, published: &Published) {
        match published {
            Published::Confirmed => {}
            Published::Nacked => self.fail("the broker refused the message: its queue is full, or the broker is in trouble"),
            Published::Returned { reason } => self.fail(&format!("no queue took the message: {reason}")),
            Published::Unknown => self.fail("the broker has not confirmed the message in time"),
        }
    }

    fn fail(&mut self, detail: &str) {
        (self.work, self.outcome) = (None, Outcome::NotConfirmed(detail.to_owned()));
    }

    fn finish(self) -> Outcome {
        let word = self.outcome.word();
        self.span.record(names::OUTCOME, word);
        if self.outcome != Outcome::Resent {
            failed(&self.span, word);
        }
        metrics::counter!(names::RESENDS_TOTAL, "outcome" => word).increment(1);
        self.outcome
    }
}

impl Outcome {
    /// Every word of [`Self::word`].
    pub(crate) const WORDS: [&str; 5] = ["resent", "not_confirmed", "unknown_id", "changed", "gone"];

    /// The one word for it.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Resent => Self::WORDS[0],
            Self::NotConfirmed(_) => Self::WORDS[1],
            Self::UnknownId => Self::WORDS[2],
            Self::Changed => Self::WORDS[3],
            Self::Gone => Self::WORDS[4],
        }
    }
}

/// Publishes each message to its subscriptions, all in one batch; a plan goes on when all of its own are confirmed.
async fn publish_messages(desk: &Desk, plans: &mut [Plan<'_>]) {
    let (of, publications): (Vec<usize>, Vec<Publication>) = plans
        .iter()
        .enumerate()
        .flat_map(|(index, plan)| plan.publications(desk).into_iter().map(move |publication| (index, publication)))
        .unzip();
    if publications.is_empty() {
        return;
    }
    let outcomes = publish_all(desk, publications).await;
    for (index, outcome) in of.into_iter().zip(&outcomes) {
        plans[index].note(outcome);
    }
}

/// One check for each plan whose message is confirmed, for exactly those subscriptions and with that attempt.
async fn schedule_checks(desk: &Desk, plans: &mut [Plan<'_>]) {
    let (mut answers, mut group) = (Vec::new(), Vec::new());
    for plan in plans.iter_mut() {
        let Some(work) = &plan.work else { continue };
        let (answer, confirmed) = oneshot::channel();
        group.push(Scheduled::of(&work.message, plan.order.attempt, work.targets.clone(), Done::Answer(answer)));
        answers.push((plan, confirmed));
    }
    desk.checks.schedule(group).await;
    for (plan, confirmed) in answers {
        match confirmed.await {
            Ok(true) => plan.outcome = Outcome::Resent,
            Ok(false) | Err(_) => plan.fail("the broker has not confirmed the new check"),
        }
    }
}

/// Child of the message's first publish, so that one message is one trace; linked to it, and to the call that ordered it. Without a trace
/// of the message's own it is the call's child.
fn span(order: &Order, message: Option<&Message>, caller: Option<&TraceContext>) -> Span {
    // To one queue as a rule; its name, for several they are too many.
    let wanted =
        if order.subscriptions.is_empty() { message.map(|message| &message.required) } else { Some(&order.subscriptions) };
    let queue = wanted.and_then(|wanted| wanted.first()).map_or("", SubscriptionName::as_str);
    let span = tracing::info_span!(
        names::SPAN_RESEND,
        { names::OTEL_NAME } = %names::span_name(names::SPAN_RESEND, queue),
        { names::OTEL_KIND } = names::PRODUCER,
        { names::STEP } = "7b",
        { names::MESSAGING_SYSTEM } = names::RABBITMQ,
        { names::MESSAGING_OPERATION_TYPE } = names::SEND,
        { names::MESSAGING_OPERATION_NAME } = names::SPAN_RESEND,
        { names::MESSAGING_DESTINATION } = queue,
        { names::MESSAGING_MESSAGE_ID } = %order.id,
        { names::MESSAGING_BODY_SIZE } = message.map(|message| names::int(message.body.len())),
        { names::ATTEMPT } = names::int(order.attempt.number),
        { names::EPOCH } = names::int(order.attempt.epoch),
        { names::OUTCOME } = tracing::field::Empty,
        { names::ERROR_TYPE } = tracing::field::Empty,
        { names::OTEL_STATUS_DESCRIPTION } = tracing::field::Empty,
    );
    if span.is_disabled() {
        return span;
    }
    let of_message = message.and_then(|message| message.trace.as_ref());
    if let Some(parent) = of_message.or(caller) {
        propagate::set_parent(&span, &parent.traceparent, parent.tracestate.as_deref());
    }
    for trace in of_message.into_iter().chain(caller) {
        propagate::link(&span, &trace.traceparent, trace.tracestate.as_deref());
    }
    span
}

#[cfg(test)]
mod tests;
