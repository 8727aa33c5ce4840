//! Check batches: the delayed second message, as bytes.

use countersign_delivery::check::{Check, CheckBatch, Mark};
use countersign_delivery::{Fingerprint, MessageId, SubscriptionName, Timestamp, UpstreamName};
use prost::Message as _;
use prost::bytes::Bytes;

use crate::error::WireError;
use crate::proto;
use crate::values::{Dictionary, attempt_from_wire, attempt_to_wire, entry, trace_from_wire, trace_to_wire, version_is_known};

/// Encodes a batch; subscription names and required sets go into dictionaries.
#[must_use]
pub fn encode(batch: &CheckBatch) -> Bytes {
    let mut names = Dictionary::new();
    let mut sets = Dictionary::new();
    let checks = batch.checks.iter().map(|check| check_to_wire(check, &mut names, &mut sets)).collect();
    let wire = proto::CheckBatch {
        version: crate::names::VERSION,
        upstream: batch.upstream.to_string(),
        subscriptions: names.into_entries().iter().map(ToString::to_string).collect(),
        required_sets: sets.into_entries().into_iter().map(|subscriptions| proto::RequiredSet { subscriptions }).collect(),
        checks,
    };
    wire.encode_to_vec().into()
}

/// Decodes a batch.
///
/// # Errors
/// [`WireError`]: the batch belongs into quarantine.
pub fn decode(bytes: Bytes) -> Result<CheckBatch, WireError> {
    let wire = proto::CheckBatch::decode(bytes).map_err(|error| WireError::Malformed(error.to_string()))?;
    version_is_known(wire.version)?;
    let names: Vec<_> = wire.subscriptions.iter().map(|name| SubscriptionName::new(name)).collect::<Result<_, _>>()?;
    let sets: Vec<Vec<SubscriptionName>> = wire
        .required_sets
        .iter()
        .map(|set| set.subscriptions.iter().map(|index| entry(&names, *index, "required subscription").cloned()).collect())
        .collect::<Result<_, _>>()?;
    let checks = wire.checks.into_iter().map(|check| check_from_wire(check, &names, &sets)).collect::<Result<_, _>>()?;
    Ok(CheckBatch { upstream: UpstreamName::new(&wire.upstream)?, checks })
}

fn check_to_wire<'a>(
    check: &'a Check,
    names: &mut Dictionary<&'a SubscriptionName>,
    sets: &mut Dictionary<Vec<u32>>,
) -> proto::Check {
    let required = check.required.iter().map(|name| names.index(name)).collect();
    let marks = check.marks.iter().map(|mark| proto::Mark {
        subscription: names.index(&mark.subscription),
        probe_after: mark.probe_after,
        live_until_ms: mark.live_until.map(Timestamp::as_millis),
    });
    proto::Check {
        message_id: Bytes::copy_from_slice(check.message_id.uuid().as_bytes()),
        fingerprint: Bytes::copy_from_slice(check.fingerprint.as_bytes()),
        attempt: Some(attempt_to_wire(check.attempt)),
        waits: check.waits,
        sent_at_ms: check.sent_at.as_millis(),
        required_set: sets.index(required),
        marks: marks.collect(),
        trace: check.trace.as_ref().map(trace_to_wire),
    }
}

fn check_from_wire(check: proto::Check, names: &[SubscriptionName], sets: &[Vec<SubscriptionName>]) -> Result<Check, WireError> {
    let marks = check.marks.into_iter().map(|mark| {
        Ok(Mark {
            subscription: entry(names, mark.subscription, "subscription of a mark")?.clone(),
            probe_after: mark.probe_after,
            live_until: mark.live_until_ms.map(Timestamp::from_millis),
        })
    });
    Ok(Check {
        message_id: MessageId::from_bytes(&check.message_id)?,
        fingerprint: Fingerprint::new(check.fingerprint.to_vec())?,
        attempt: attempt_from_wire(check.attempt)?,
        waits: check.waits,
        sent_at: Timestamp::from_millis(check.sent_at_ms),
        required: entry(sets, check.required_set, "required set")?.clone(),
        marks: marks.collect::<Result<_, WireError>>()?,
        trace: check.trace.and_then(trace_from_wire),
    })
}
