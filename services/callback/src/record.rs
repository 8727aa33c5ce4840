//! Step 5: write receipts down. Everything that is ready in the receipts queue goes into MSG DB with one upsert, then it is acked. What tells of
//! operators' acts at upstream and downstream lies between them, and goes into the audit.
//!
//! What can fail: the bytes (a confirmed copy goes to quarantine, the healthy ones beside it are recorded); MSG DB (nothing is
//! acked, the same receipts are applied again later); this process, before or after the write (the broker delivers again, and
//! applying a receipt twice says nothing new, nor does an act that was told twice). A receipt that is lost altogether is covered by the check.

use countersign_boot::{Failpoint, failpoint};
use countersign_delivery::Outcome as Signed;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::audit::ToldAct;
use countersign_delivery::ports::broker::Delivered;
use countersign_delivery::ports::deliveries::{Change, DeliveryKey};
use countersign_delivery::receipt::{ProbeAnswer, Receipt, ReceiptBatch};
use countersign_delivery::state::{Command, Delivery, Event, Illegal};
use countersign_delivery::{Attempt, Timestamp, Topology};
use countersign_telemetry::{failed, names, propagate};
use countersign_wire::{WireError, acts, receipts};
use tracing::Span;

use crate::desk::Desk;
use crate::error::Error;
use crate::quarantine::{Unreadable, set_aside};

/// Bytes of a failure's detail that are kept.
const DETAIL_MAX: usize = 500;
/// Attempts and epochs beyond this are nonsense, not history.
pub(crate) const ATTEMPT_MAX: u32 = 1_000_000_000;

/// What became of deliveries of the receipts queue.
#[derive(Debug)]
pub enum Outcome {
    /// Recorded, or in quarantine: ack all of them.
    Recorded,
    /// Ack all but those at these positions; come again with them.
    Held {
        /// Indexes into what was given, ascending.
        positions: Vec<usize>,
        /// What is in the way.
        why: Error,
    },
}

/// One readable delivery.
struct Read {
    position: usize,
    /// Empty if it tells of acts.
    batch: ReceiptBatch,
    /// Empty if it does not.
    acts: Vec<ToldAct>,
}

/// Records what was delivered. Idempotent: the same deliveries may be given again.
pub async fn record(desk: &Desk, delivered: &[Delivered]) -> Outcome {
    failpoint(Failpoint::CallbackReceiptAfterDelivery);
    let (read, mut unreadable) = read_all(delivered);
    let queue = desk.topology.receipts_queue();
    let receipts = read.iter().flat_map(|read| &read.batch.receipts);
    let spans: Vec<Span> = receipts.filter_map(|receipt| span_of(receipt, &queue)).collect();

    let mut held = Vec::new();
    let mut why = None;
    if let Err(error) = write_down(desk, &read).await {
        for span in &spans {
            failed(span, "msg_db");
        }
        let (refused, waiting) = tell_poison_from_trouble(desk, read, &error).await;
        held.extend(waiting);
        unreadable.extend(refused.into_iter().map(|position| unreadable_at(delivered, position, error.to_string())));
        why = Some(Error::from(error));
    }
    let (not_set_aside, refusal) = set_aside(desk, &unreadable).await;
    held.extend(not_set_aside);
    held.sort_unstable();
    drop(spans);
    failpoint(Failpoint::CallbackReceiptAfterPersist);
    match refusal.or(why) {
        Some(why) if !held.is_empty() => Outcome::Held { positions: held, why },
        _ => Outcome::Recorded,
    }
}

fn read_all(delivered: &[Delivered]) -> (Vec<Read>, Vec<Unreadable<'_>>) {
    let mut read = Vec::with_capacity(delivered.len());
    let mut unreadable = Vec::new();
    for (position, one) in delivered.iter().enumerate() {
        let one = if acts::are(&one.properties) {
            acts::decode(one.body.clone()).map(|acts| Read { position, batch: ReceiptBatch::default(), acts })
        } else {
            read_one(one).map(|batch| Read { position, batch, acts: Vec::new() })
        };
        match one {
            Ok(one) => read.push(one),
            Err(error) => unreadable.push(unreadable_at(delivered, position, error.to_string())),
        }
    }
    (read, unreadable)
}

fn unreadable_at(delivered: &[Delivered], position: usize, why: String) -> Unreadable<'_> {
    Unreadable { position, delivered: &delivered[position], why }
}

/// Decodes, and cuts to size what a foreign signer may have written without measure.
fn read_one(delivered: &Delivered) -> Result<ReceiptBatch, WireError> {
    let mut batch = receipts::decode(delivered.properties.content_type.as_deref(), delivered.body.clone())?;
    for receipt in &mut batch.receipts {
        let Attempt { epoch, number } = receipt.attempt;
        if epoch > ATTEMPT_MAX || number > ATTEMPT_MAX {
            return Err(WireError::OutOfRange("attempt of a receipt"));
        }
        match &mut receipt.outcome {
            Signed::Done => {}
            Signed::Failed { detail, .. } => tidy(detail),
            Signed::Retrying { delay_ms: time, .. } | Signed::Processing { lease_ms: time } => {
                *time = (*time).min(Topology::MAX_DELAY_MS);
            }
        }
    }
    Ok(batch)
}

/// One line of bounded length: databases refuse some control characters, and people cannot read them.
fn tidy(detail: &mut String) {
    detail.truncate(detail.floor_char_boundary(DETAIL_MAX));
    if detail.contains(char::is_control) {
        *detail = detail.replace(char::is_control, " ");
    }
}

/// All receipts in one `apply`, then the probes' answers, then what was told of acts in one transaction.
async fn write_down(desk: &Desk, read: &[Read]) -> Result<(), PortError> {
    let receipts: Vec<&Receipt> = read.iter().flat_map(|read| &read.batch.receipts).collect();
    let (conflicts, genuine): (Vec<&Receipt>, Vec<&Receipt>) = receipts.into_iter().partition(|receipt| receipt.is_conflict());
    let changes: Vec<Change<'_>> = genuine.iter().map(|receipt| change(receipt)).collect();
    let states = if changes.is_empty() { Vec::new() } else { desk.deliveries.apply(&changes).await? };
    let answers: Vec<ProbeAnswer> = read.iter().flat_map(|read| read.batch.probes.iter().cloned()).collect();
    if !answers.is_empty() {
        desk.deliveries.probes_answered(&answers).await?;
        let signed = u64::try_from(answers.len()).unwrap_or(u64::MAX);
        metrics::counter!(names::PROBES_TOTAL, "outcome" => "signed").increment(signed);
    }
    let told: Vec<ToldAct> = read.iter().flat_map(|read| read.acts.iter().cloned()).collect();
    if !told.is_empty() {
        desk.audit.write_told(&told).await?;
    }
    let now = desk.clock.now();
    conflicts.into_iter().for_each(tell_conflict);
    for (receipt, state) in genuine.iter().zip(&states) {
        tell(receipt, state, now);
    }
    Ok(())
}

fn change(receipt: &Receipt) -> Change<'_> {
    let key = DeliveryKey { message_id: receipt.message_id, subscription: receipt.subscription.clone() };
    Change { key, event: Event::Signed(receipt) }
}

/// After a refusal that would come again: writes each delivery by itself. What is refused while another is taken is poison;
/// if nothing is taken the trouble is the database's, and all wait. Gives back the positions of both kinds.
async fn tell_poison_from_trouble(desk: &Desk, read: Vec<Read>, error: &PortError) -> (Vec<usize>, Vec<usize>) {
    let all = |read: &[Read]| read.iter().map(|read| read.position).collect::<Vec<_>>();
    if error.is_transient() || read.len() < 2 {
        return (Vec::new(), all(&read));
    }
    let (mut refused, mut waiting, mut taken) = (Vec::new(), Vec::new(), false);
    for one in &read {
        match write_down(desk, std::slice::from_ref(one)).await {
            Ok(()) => taken = true,
            Err(error) if error.is_transient() => waiting.push(one.position),
            Err(_) => refused.push(one.position),
        }
    }
    if taken {
        return (refused, waiting);
    }
    waiting.append(&mut refused);
    (Vec::new(), waiting)
}

/// A child of whoever published the receipt; none when the message has no trace.
fn span_of(receipt: &Receipt, queue: &str) -> Option<Span> {
    let trace = receipt.trace.as_ref()?;
    let span = tracing::info_span!(
        parent: None,
        names::SPAN_RECORD,
        { names::OTEL_NAME } = %names::span_name(names::SPAN_RECORD, queue),
        { names::OTEL_KIND } = names::CONSUMER,
        { names::STEP } = "5",
        { names::MESSAGING_SYSTEM } = names::RABBITMQ,
        { names::MESSAGING_OPERATION_TYPE } = names::PROCESS,
        { names::MESSAGING_OPERATION_NAME } = names::SPAN_RECORD,
        { names::MESSAGING_DESTINATION } = queue,
        { names::MESSAGING_MESSAGE_ID } = %receipt.message_id,
        { names::MESSAGING_SUBSCRIPTION } = %receipt.subscription,
        { names::ATTEMPT } = names::int(receipt.attempt.number),
        { names::EPOCH } = names::int(receipt.attempt.epoch),
        { names::OUTCOME } = word(receipt),
        { names::REASON } = tracing::field::Empty,
        { names::ERROR_TYPE } = tracing::field::Empty,
        { names::OTEL_STATUS_DESCRIPTION } = tracing::field::Empty,
    );
    if let Signed::Failed { reason, .. } = &receipt.outcome {
        span.record(names::REASON, reason.as_str());
    }
    if !span.is_disabled() {
        propagate::set_parent(&span, &trace.traceparent, trace.tracestate.as_deref());
        // A span that is never entered would not begin.
        span.in_scope(|| ());
    }
    Some(span)
}

const fn word(receipt: &Receipt) -> &'static str {
    match receipt.outcome {
        Signed::Done => "done",
        Signed::Failed { .. } => "failed",
        Signed::Retrying { .. } => "retrying",
        Signed::Processing { .. } => "processing",
    }
}

/// Counts one recorded receipt, and says so when it is an impostor's or comes after callback had given an order.
fn tell(receipt: &Receipt, state: &Result<Option<Delivery>, Illegal>, now: Timestamp) {
    if let Ok(Some(delivery)) = state {
        if delivery.facts.fingerprint != receipt.fingerprint {
            return tell_conflict(receipt);
        }
        if is_late(receipt, delivery) {
            metrics::counter!(names::LATE_RECEIPTS_TOTAL).increment(1);
        }
    }
    metrics::counter!(names::RECEIPTS_TOTAL, "outcome" => word(receipt)).increment(1);
    if matches!(receipt.outcome, Signed::Done) {
        let seconds = std::time::Duration::from_millis(now.millis_since(receipt.sent_at)).as_secs_f64();
        let subscription = receipt.subscription.to_string();
        metrics::histogram!(names::DELIVERY_DURATION_SECONDS, "subscription" => subscription).record(seconds);
    }
}

/// Whether callback had given it up, or ordered a later try, when this was signed.
fn is_late(receipt: &Receipt, delivery: &Delivery) -> bool {
    match delivery.command {
        Command::None => false,
        Command::Parked { .. } | Command::Discarded { .. } => true,
        Command::Resending { attempt, .. } | Command::Resent { attempt } => receipt.attempt < attempt,
    }
}

fn tell_conflict(receipt: &Receipt) {
    metrics::counter!(names::RECEIPTS_TOTAL, "outcome" => "conflict").increment(1);
    let (id, subscription, upstream) = (receipt.message_id, &receipt.subscription, &receipt.upstream);
    tracing::warn!(%id, %subscription, %upstream, "a message came under a known id with another fingerprint: not recorded");
}
