//! What is known about every check that came due, gathered once for all of them.

use std::collections::{BTreeMap, BTreeSet};

use countersign_delivery::check::Check;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::broker::Delivered;
use countersign_delivery::ports::deliveries::DeliveryKey;
use countersign_delivery::probe::{Lane, LaneView, view};
use countersign_delivery::state::Delivery;
use countersign_delivery::{Timestamp, UpstreamName};
use countersign_telemetry::{names, propagate};
use countersign_wire::{WireError, canaries, checks};
use tracing::Span;

use crate::desk::Desk;
use crate::probe;
use crate::quarantine::Unreadable;
use crate::record::ATTEMPT_MAX;

use super::verdict::is_expired;

/// One check, and where it came from.
pub(super) struct Entry {
    /// Index of its batch among the deliveries.
    pub position: usize,
    /// Who can send its message again.
    pub upstream: UpstreamName,
    /// The check.
    pub check: Check,
    /// Its span.
    pub span: Span,
}

/// The evidence.
#[derive(Default)]
pub(super) struct Look {
    /// MSG DB's clock; only asked for when something is not signed.
    pub now: Timestamp,
    /// By entry and required subscription.
    pub rows: Vec<Vec<Option<Delivery>>>,
    /// What the probes of each lane say.
    pub lanes: BTreeMap<Lane, LaneView>,
    /// Up to which age MSG DB has deleted what was settled; only asked for when a row is missing that is old enough for that.
    pub forgotten_before: Timestamp,
}

/// Decodes what was delivered. A canary is noted; its batch has no entry, and if it had one it would be judged.
pub(super) fn read<'a>(desk: &Desk, delivered: &'a [Delivered]) -> (Vec<Entry>, Vec<Unreadable<'a>>) {
    let queue = desk.topology.checks_queue();
    let mut entries = Vec::new();
    let mut unreadable = Vec::new();
    for (position, one) in delivered.iter().enumerate() {
        if let Some(canary) = canaries::read(&one.properties) {
            desk.canaries.note(&desk.topology, desk.clock.now(), canary);
        }
        match checks::decode(one.body.clone()).and_then(sound) {
            Ok(batch) => entries.extend(batch.checks.into_iter().map(|check| {
                let span = span_of(&check, &queue);
                Entry { position, upstream: batch.upstream.clone(), check, span }
            })),
            Err(error) => unreadable.push(Unreadable { position, delivered: one, why: error.to_string() }),
        }
    }
    (entries, unreadable)
}

fn sound(batch: countersign_delivery::check::CheckBatch) -> Result<countersign_delivery::check::CheckBatch, WireError> {
    let sound = batch.checks.iter().all(|check| check.attempt.number <= ATTEMPT_MAX && check.attempt.epoch <= ATTEMPT_MAX);
    if sound { Ok(batch) } else { Err(WireError::OutOfRange("attempt of a check")) }
}

/// One query for the rows of all entries; and, only if something is not signed, the clock and the probes of its lanes.
///
/// The clock is read after the rows: time that passes in between can only make a lease look shorter, and the compare-and-set of an order looks again.
pub(super) async fn gather(desk: &Desk, entries: &[Entry]) -> Result<Look, PortError> {
    let keys: Vec<DeliveryKey> = entries.iter().flat_map(|entry| keys_of(&entry.check)).collect();
    if keys.is_empty() {
        return Ok(Look { rows: vec![Vec::new(); entries.len()], ..Look::default() });
    }
    let mut found = desk.deliveries.look_up(&keys).await?.into_iter();
    let rows: Vec<Vec<Option<Delivery>>> =
        entries.iter().map(|entry| entry.check.required.iter().map(|_| found.next().flatten()).collect()).collect();
    let lanes: BTreeSet<Lane> = open(entries, &rows)
        .filter_map(|(entry, at, row)| {
            let genuine = row.filter(|row| row.facts.fingerprint == entry.check.fingerprint);
            probe::lane(&desk.topology, &entry.check.required[at], genuine)
        })
        .collect();
    if open(entries, &rows).next().is_none() {
        return Ok(Look { rows, ..Look::default() });
    }
    let now = desk.deliveries.now().await?;
    let lanes: Vec<Lane> = lanes.into_iter().collect();
    let probes = if lanes.is_empty() { Vec::new() } else { desk.deliveries.probes(&lanes).await? };
    let lanes = lanes.into_iter().zip(probes.iter().map(|probes| view(probes))).collect();
    let forgotten_before = if any_may_be_forgotten(desk, entries, &rows, now) {
        desk.deliveries.forgotten_before().await?
    } else {
        Timestamp::default()
    };
    Ok(Look { now, rows, lanes, forgotten_before })
}

/// Whether a row is missing whose message is older than its consumers' memory: MSG DB's is longer.
fn any_may_be_forgotten(desk: &Desk, entries: &[Entry], rows: &[Vec<Option<Delivery>>], now: Timestamp) -> bool {
    open(entries, rows).any(|(entry, _, row)| row.is_none() && is_expired(desk, now, entry.check.message_id.minted_at()))
}

fn keys_of(check: &Check) -> impl Iterator<Item = DeliveryKey> {
    check.required.iter().map(|subscription| DeliveryKey { message_id: check.message_id, subscription: subscription.clone() })
}

/// Entries and subscriptions that are neither signed by the genuine message nor parked.
fn open<'a>(
    entries: &'a [Entry],
    rows: &'a [Vec<Option<Delivery>>],
) -> impl Iterator<Item = (&'a Entry, usize, Option<&'a Delivery>)> {
    entries.iter().zip(rows).flat_map(|(entry, rows)| {
        let open = rows.iter().enumerate().filter(|(_, row)| {
            row.as_ref().is_none_or(|row| {
                let genuine = row.facts.fingerprint == entry.check.fingerprint;
                !(genuine && (row.is_done() || row.is_put_aside()))
            })
        });
        open.map(move |(at, row)| (entry, at, row.as_ref()))
    })
}

/// A trace of its own, linked to the message's; none when the message has no trace.
fn span_of(check: &Check, queue: &str) -> Span {
    let Some(trace) = check.trace.as_ref() else { return Span::none() };
    let span = tracing::info_span!(
        parent: None,
        names::SPAN_CHECK,
        { names::OTEL_NAME } = %names::span_name(names::SPAN_CHECK, queue),
        { names::OTEL_KIND } = names::CONSUMER,
        { names::STEP } = "6",
        { names::MESSAGING_SYSTEM } = names::RABBITMQ,
        { names::MESSAGING_OPERATION_TYPE } = names::PROCESS,
        { names::MESSAGING_OPERATION_NAME } = names::SPAN_CHECK,
        { names::MESSAGING_DESTINATION } = queue,
        { names::MESSAGING_MESSAGE_ID } = %check.message_id,
        { names::ATTEMPT } = names::int(check.attempt.number),
        { names::EPOCH } = names::int(check.attempt.epoch),
        { names::VERDICT } = tracing::field::Empty,
        { names::REASON } = tracing::field::Empty,
    );
    if !span.is_disabled() {
        propagate::link(&span, &trace.traceparent, trace.tracestate.as_deref());
        // A span that is never entered would not begin.
        span.in_scope(|| ());
    }
    span
}
