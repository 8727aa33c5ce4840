//! Step 7a: order upstream to send it again. The order is written down first, then one call carries it, then the answer is written down.
//!
//! What can fail: another callback is at the same order (compare-and-set: one wins); this process between the write and the call, or
//! between the call and its answer (the order's lease ends, and whoever meets it repeats the same try: a crash spends none);
//! upstream (nothing is written, the check is armed again; after several failures in a row its breaker opens and nobody calls for a
//! while); the rate and the calls at a time (what is over them is armed again); its slowness (the check is armed again, the call goes on
//! and its answer is written down all the same). Upstream's own failures are answers: unknown ids park after two, changed and gone ones at once.
//!
//! **Invariant:** an upstream that does not answer keeps nobody waiting for longer than twice the lines' patience.

use std::collections::BTreeMap;

use countersign_boot::{Failpoint, failpoint};
use countersign_delivery::message::{Attempt, TraceContext};
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::deliveries::{Change, DeliveryKey};
use countersign_delivery::state::{Command, Delivery, Event, Facts, Illegal, ParkReason, ResendReason};
use countersign_delivery::{MessageId, SubscriptionName, Timestamp, UpstreamName};
use countersign_telemetry::{invariants, names, propagate};
use futures::StreamExt as _;
use tokio::time::Instant;
use tracing::{Instrument as _, Span};

use crate::desk::Desk;
use crate::lines::{Closed, Leave, Line};
use crate::upstreams::{Answer, CallError, ResendOrder};

/// Upstreams that one step calls at the same time.
const CALLS_AT_ONCE: usize = 16;
/// Messages that the span of one call is linked to at most; each resend is linked back to it, however many there are.
const LINKS_MAX: usize = 128;
/// The word for a call that goes on although nobody waits for it any more.
const UNDER_WAY: &str = "under_way";

/// One message that is to be sent again.
#[derive(Clone, Debug)]
pub struct Order {
    /// Which.
    pub message_id: MessageId,
    /// What is known of it; names the upstream.
    pub facts: Facts,
    /// As which try.
    pub attempt: Attempt,
    /// The epoch in which an operator allowed a second effect; 0: none.
    pub effect_epoch: u32,
    /// For whom; never empty.
    pub wanted: Vec<Wanted>,
    /// The message's trace.
    pub trace: Option<TraceContext>,
    /// The span of the look that led to it.
    pub cause: Span,
}

/// One subscription that has not signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Which.
    pub subscription: SubscriptionName,
    /// `live_until` when the verdict was reached.
    pub seen_live_until: Option<Timestamp>,
    /// By what evidence.
    pub why: ResendReason,
}

/// Whether the orders are written down already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// No: write each first; only what is written is ordered.
    NotYet,
    /// Yes: an operator's redrive did it.
    Already,
}

/// What became of one order for one subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Upstream has published the message and a new check; nothing is left to do.
    Resent,
    /// It was signed in the meantime.
    AlreadyDone,
    /// It is left for a human.
    Parked,
    /// Look again later; the word says why.
    Again(&'static str),
}

impl Outcome {
    /// Whether only others were first: the upstream is well, and the next look may come soon.
    #[must_use]
    pub fn is_crowded(self) -> bool {
        matches!(self, Self::Again(word) if word == Closed::Busy.as_str() || word == Closed::Rate.as_str())
    }
}

/// Orders resends; answers per order and wanted subscription, in order.
///
/// # Errors
/// [`PortError`] of MSG DB: some orders may have been carried out. Looking at the same checks again is safe.
pub async fn command_resend(desk: &Desk, orders: Vec<Order>, written: Written) -> Result<Vec<Vec<Outcome>>, PortError> {
    let mut outcomes: Vec<Vec<Outcome>> =
        orders.iter().map(|order| vec![Outcome::Again("not_called"); order.wanted.len()]).collect();
    let mut groups: BTreeMap<UpstreamName, Vec<(usize, Order)>> = BTreeMap::new();
    for (at, order) in orders.into_iter().enumerate() {
        groups.entry(order.facts.upstream.clone()).or_default().push((at, order));
    }
    let until = Instant::now() + desk.lines.patience();
    let calls = groups.into_iter().map(|(upstream, orders)| one_upstream(desk, upstream, orders, written, until));
    let mut answered = futures::stream::iter(calls).buffer_unordered(CALLS_AT_ONCE);
    let mut failure = None;
    while let Some(answers) = answered.next().await {
        match answers {
            Ok(answers) => answers.into_iter().for_each(|(at, answer)| outcomes[at] = answer),
            Err(error) => failure = Some(error),
        }
    }
    failure.map_or(Ok(outcomes), Err)
}

type Answers = Vec<(usize, Vec<Outcome>)>;

/// All orders to one upstream, call by call until `until`. The first call that fails or takes too long ends it: the rest is armed again.
async fn one_upstream(
    desk: &Desk,
    upstream: UpstreamName,
    mut orders: Vec<(usize, Order)>,
    written: Written,
    until: Instant,
) -> Result<Answers, PortError> {
    let line = desk.lines.to(&upstream);
    let size = desk.figures.max_orders.min(desk.lines.burst()).max(1);
    let mut answers = Vec::with_capacity(orders.len());
    let mut closed = None;
    while closed.is_none() && !orders.is_empty() {
        match line.admit(orders.len().min(size), until).await {
            Err(why) => closed = Some(why.as_str()),
            Ok(leave) => {
                let chunk: Vec<_> = orders.drain(..leave.orders()).collect();
                let (outcomes, ended) = call_for_a_while(desk, &upstream, &line, chunk, written, leave).await?;
                closed = ended;
                answers.extend(outcomes);
            }
        }
    }
    if let Some(word) = closed.filter(|_| !orders.is_empty()) {
        count(word, orders.len());
        answers.extend(orders.iter().map(|(at, order)| (*at, vec![Outcome::Again(word); order.wanted.len()])));
    }
    Ok(answers)
}

/// One call, for whose end is waited as long as the lines' patience lasts; it goes on to its end in any case. Also says by which word no
/// further call shall follow.
async fn call_for_a_while(
    desk: &Desk,
    upstream: &UpstreamName,
    line: &Line,
    chunk: Vec<(usize, Order)>,
    written: Written,
    leave: Leave,
) -> Result<(Answers, Option<&'static str>), PortError> {
    let unanswered: Answers =
        chunk.iter().map(|(at, order)| (*at, vec![Outcome::Again(UNDER_WAY); order.wanted.len()])).collect();
    let (of, to) = (desk.clone(), upstream.clone());
    let call = desk.tasks.spawn("a resend call", async move { one_call(&of, &to, &chunk, written, leave).await });
    match tokio::time::timeout(desk.lines.patience(), call).await {
        Ok(Ok(ended)) => ended.map(|(answers, failed)| (answers, failed.then_some("call_failed"))),
        // It panicked, which its task has told. Its orders stand as far as it came, and are repeated when their lease has ended.
        Ok(Err(_)) => Ok((unanswered, Some("call_failed"))),
        Err(_) => {
            line.note_slow();
            tracing::info!(%upstream, orders = unanswered.len(), "a resend call takes long: its checks are armed again meanwhile");
            Ok((unanswered, Some(UNDER_WAY)))
        }
    }
}

/// Writes the orders of one call down, makes it, and writes the answers down. Also says whether the call failed.
async fn one_call(
    desk: &Desk,
    upstream: &UpstreamName,
    chunk: &[(usize, Order)],
    written: Written,
    leave: Leave,
) -> Result<(Answers, bool), PortError> {
    let most = desk.policy.max_resends.saturating_add(1);
    for (_, order) in chunk.iter().filter(|(_, order)| order.attempt.number > most) {
        invariants::violated("I4", &format!("message {} is ordered as try {} of {most}", order.message_id, order.attempt.number));
    }
    let mut outcomes: Vec<Vec<Outcome>> = match written {
        Written::Already => chunk.iter().map(|(_, order)| vec![Outcome::Again("ordered"); order.wanted.len()]).collect(),
        Written::NotYet => write_orders(desk, chunk).await?,
    };
    let calls: Vec<Call<'_>> =
        chunk.iter().enumerate().filter_map(|(place, (_, order))| Call::of(place, order, &outcomes[place])).collect();
    let mut failed = false;
    if !calls.is_empty() {
        failpoint(Failpoint::CallbackAfterAttemptStored);
        let span = span_of(upstream, &calls);
        let orders: Vec<ResendOrder> = calls.iter().map(Call::order).collect();
        let answer = desk.upstreams.resend(upstream, &orders).instrument(span.clone()).await;
        if let Err(error) = &answer {
            countersign_telemetry::failed(&span, error.word());
        }
        drop(span);
        failpoint(Failpoint::CallbackAfterCall);
        match answer {
            Ok(answer) => {
                leave.answered();
                let written = write_answers(desk, upstream, &calls, &answer, &mut outcomes).await;
                written.inspect_err(
                    |error| tracing::warn!(%upstream, %error, "answers could not be written down; the orders are repeated"),
                )?;
            }
            Err(error) => {
                failed = true;
                tell_failure(upstream, &error, calls.len(), leave.failed());
            }
        }
    }
    Ok((chunk.iter().map(|(at, _)| *at).zip(outcomes).collect(), failed))
}

/// What one order asks for after the compare-and-set: only the subscriptions it won.
struct Call<'a> {
    place: usize,
    order: &'a Order,
    /// Indexes into `order.wanted`.
    won: Vec<usize>,
}

impl<'a> Call<'a> {
    fn of(place: usize, order: &'a Order, outcomes: &[Outcome]) -> Option<Self> {
        let won: Vec<usize> = (0..outcomes.len()).filter(|at| outcomes[*at] == Outcome::Again("ordered")).collect();
        (!won.is_empty()).then_some(Self { place, order, won })
    }

    fn order(&self) -> ResendOrder {
        ResendOrder {
            message_id: self.order.message_id,
            attempt: self.order.attempt,
            subscriptions: self.won.iter().map(|at| self.order.wanted[*at].subscription.clone()).collect(),
            fingerprint: self.order.facts.fingerprint.clone(),
            effect_epoch: self.order.effect_epoch,
        }
    }

    fn key(&self, at: usize) -> DeliveryKey {
        DeliveryKey { message_id: self.order.message_id, subscription: self.order.wanted[at].subscription.clone() }
    }
}

/// Writes every order down by compare-and-set. `Again("ordered")`: ours to call.
async fn write_orders(desk: &Desk, chunk: &[(usize, Order)]) -> Result<Vec<Vec<Outcome>>, PortError> {
    let changes: Vec<Change<'_>> =
        chunk.iter().flat_map(|(_, order)| order.wanted.iter().map(|wanted| change(desk, order, wanted))).collect();
    let mut states = desk.deliveries.apply(&changes).await?.into_iter();
    let mut outcome = || match states.next() {
        Some(Ok(_)) => Outcome::Again("ordered"),
        Some(Err(illegal)) => lost(illegal),
        None => Outcome::Again("not_called"),
    };
    Ok(chunk.iter().map(|(_, order)| order.wanted.iter().map(|_| outcome()).collect()).collect())
}

fn change<'a>(desk: &Desk, order: &Order, wanted: &Wanted) -> Change<'a> {
    let key = DeliveryKey { message_id: order.message_id, subscription: wanted.subscription.clone() };
    let event = Event::OrderResend {
        facts: order.facts.clone(),
        attempt: order.attempt,
        lease_ms: desk.policy.resend_lease_ms,
        seen_live_until: wanted.seen_live_until,
        why: wanted.why,
    };
    Change { key, event }
}

/// What it means that a compare-and-set was lost.
fn lost(illegal: Illegal) -> Outcome {
    match illegal {
        Illegal::AlreadyDone => Outcome::AlreadyDone,
        Illegal::Parked | Illegal::Discarded => Outcome::Parked,
        Illegal::OutOfDate => Outcome::Again("out_of_date"),
        Illegal::SpokenSince => Outcome::Again("spoken_since"),
        Illegal::Absent | Illegal::NotDiscarded => Outcome::Again("absent"),
    }
}

/// Writes down what upstream answered; orders it could not carry out in time stay open, and nothing is written for them.
async fn write_answers(
    desk: &Desk,
    upstream: &UpstreamName,
    calls: &[Call<'_>],
    answers: &[Answer],
    outcomes: &mut [Vec<Outcome>],
) -> Result<(), PortError> {
    let mut places = Vec::new();
    let mut changes = Vec::new();
    for (call, answer) in calls.iter().zip(answers) {
        count(answer.as_str(), 1);
        let (id, attempt) = (call.order.message_id, call.order.attempt.number);
        tracing::info!(%upstream, %id, attempt, answer = answer.as_str(), "upstream answered an order to resend");
        for at in &call.won {
            match event(desk, call.order, *answer) {
                Some(event) => {
                    places.push((call.place, *at, *answer));
                    changes.push(Change { key: call.key(*at), event });
                }
                None => outcomes[call.place][*at] = Outcome::Again(answer.as_str()),
            }
        }
    }
    if !changes.is_empty() {
        let states = desk.deliveries.apply(&changes).await?;
        for ((place, at, answer), state) in places.into_iter().zip(states) {
            outcomes[place][at] = after(answer, state);
        }
    }
    Ok(())
}

fn event<'a>(desk: &Desk, order: &Order, answer: Answer) -> Option<Event<'a>> {
    let attempt = order.attempt;
    let park = |reason| Event::Park { facts: order.facts.clone(), attempt, reason };
    match answer {
        Answer::Resent => Some(Event::ResendAnswered { attempt }),
        Answer::NotConfirmed => None,
        Answer::UnknownId => Some(Event::UnknownToUpstream { attempt, max_answers: desk.policy.max_unknown_answers }),
        Answer::Changed => Some(park(ParkReason::Changed)),
        Answer::Gone => Some(park(ParkReason::Gone)),
    }
}

/// After RESENT nothing is armed again, whatever became of the row: upstream has published a new check.
fn after(answer: Answer, state: Result<Option<Delivery>, Illegal>) -> Outcome {
    match (answer, state) {
        (Answer::Resent, Err(Illegal::AlreadyDone)) => Outcome::AlreadyDone,
        (Answer::Resent, _) => Outcome::Resent,
        (_, Err(illegal)) => lost(illegal),
        (_, Ok(Some(Delivery { command: Command::Parked { reason, .. }, .. }))) => {
            tell_parked(&reason);
            Outcome::Parked
        }
        (_, Ok(_)) => Outcome::Again(answer.as_str()),
    }
}

/// Counts and logs one delivery that was left for a human.
pub(crate) fn tell_parked(reason: &ParkReason) {
    metrics::counter!(names::PARKED_TOTAL, "reason" => reason.as_str()).increment(1);
}

fn count(outcome: &'static str, orders: usize) {
    let orders = u64::try_from(orders).unwrap_or(u64::MAX);
    metrics::counter!(names::RESEND_ORDERS_TOTAL, "outcome" => outcome).increment(orders);
}

fn tell_failure(upstream: &UpstreamName, error: &CallError, orders: usize, opened: bool) {
    count("call_failed", orders);
    tracing::warn!(%upstream, %error, orders, "a resend call failed; no attempt is spent");
    if opened {
        tracing::warn!(%upstream, "the breaker opened: it is not called for a while");
    }
}

/// One span a call: a child of the first look that led to it, linked to the messages it is about, up to [`LINKS_MAX`].
fn span_of(upstream: &UpstreamName, calls: &[Call<'_>]) -> Span {
    let Some(first) = calls.first() else { return Span::none() };
    let span = tracing::info_span!(
        parent: &first.order.cause,
        names::SPAN_COMMAND_RESEND,
        { names::OTEL_NAME } = %names::span_name(names::SPAN_COMMAND_RESEND, upstream.as_str()),
        { names::OTEL_KIND } = names::CLIENT,
        { names::STEP } = "7a",
        { names::UPSTREAM } = %upstream,
        { names::MESSAGING_MESSAGE_ID } = %first.order.message_id,
        { names::MESSAGING_BATCH_COUNT } = names::int(calls.len()),
        { names::ATTEMPT } = names::int(first.order.attempt.number),
        { names::EPOCH } = names::int(first.order.attempt.epoch),
        { names::ERROR_TYPE } = tracing::field::Empty,
        { names::OTEL_STATUS_DESCRIPTION } = tracing::field::Empty,
    );
    if !span.is_disabled() {
        for trace in calls.iter().filter_map(|call| call.order.trace.as_ref()).take(LINKS_MAX) {
            propagate::link(&span, &trace.traceparent, trace.tracestate.as_deref());
        }
    }
    span
}
