//! Receipt batches, as bytes; and the single JSON receipt of a consumer that signs by itself.

use countersign_delivery::probe::Lane;
use countersign_delivery::receipt::{FailReason, Outcome, ProbeAnswer, Receipt, ReceiptBatch};
use countersign_delivery::{Attempt, Fingerprint, MessageId, SubscriptionName, Timestamp, UpstreamName};
use prost::Message as _;
use prost::bytes::Bytes;
use serde::Deserialize;

use crate::error::WireError;
use crate::proto::{self, ReceiptOutcome};
use crate::values::{Dictionary, attempt_from_wire, attempt_to_wire, entry, trace_from_wire, trace_to_wire, version_is_known};

/// Encodes a batch as protobuf.
#[must_use]
pub fn encode(batch: &ReceiptBatch) -> Bytes {
    let mut names = Dictionary::new();
    let mut upstreams = Dictionary::new();
    let receipts = batch.receipts.iter().map(|receipt| {
        let (outcome, duration_ms, reason, detail) = outcome_to_wire(&receipt.outcome);
        proto::Receipt {
            message_id: Bytes::copy_from_slice(receipt.message_id.uuid().as_bytes()),
            subscription: names.index(&receipt.subscription),
            upstream: upstreams.index(&receipt.upstream),
            fingerprint: Bytes::copy_from_slice(receipt.fingerprint.as_bytes()),
            attempt: Some(attempt_to_wire(receipt.attempt)),
            sent_at_ms: receipt.sent_at.as_millis(),
            outcome: outcome.into(),
            duration_ms,
            reason: reason.to_owned(),
            detail: detail.to_owned(),
            trace: receipt.trace.as_ref().map(trace_to_wire),
        }
    });
    let receipts = receipts.collect();
    let probes = batch.probes.iter().map(|answer| proto::ProbeAnswer {
        subscription: names.index(&answer.lane.subscription),
        retry_delay_ms: answer.lane.retry_delay_ms.unwrap_or(0),
        number: answer.number,
    });
    let probes = probes.collect();
    let wire = proto::ReceiptBatch {
        version: crate::names::VERSION,
        subscriptions: names.into_entries().iter().map(ToString::to_string).collect(),
        upstreams: upstreams.into_entries().iter().map(ToString::to_string).collect(),
        receipts,
        probes,
    };
    wire.encode_to_vec().into()
}

/// Decodes what arrived in the receipts queue, by its content type: a protobuf batch, or one receipt in JSON.
///
/// # Errors
/// [`WireError`]: it belongs into quarantine.
pub fn decode(content_type: Option<&str>, bytes: Bytes) -> Result<ReceiptBatch, WireError> {
    let media_type = content_type.and_then(|full| full.split(';').next()).map(str::trim);
    if media_type == Some(crate::names::JSON) { decode_json(&bytes) } else { decode_protobuf(bytes) }
}

fn decode_protobuf(bytes: Bytes) -> Result<ReceiptBatch, WireError> {
    let wire = proto::ReceiptBatch::decode(bytes).map_err(|error| WireError::Malformed(error.to_string()))?;
    version_is_known(wire.version)?;
    let names: Vec<_> = wire.subscriptions.iter().map(|name| SubscriptionName::new(name)).collect::<Result<_, _>>()?;
    let upstreams: Vec<_> = wire.upstreams.iter().map(|name| UpstreamName::new(name)).collect::<Result<_, _>>()?;
    let receipts = wire.receipts.into_iter().map(|receipt| receipt_from_wire(receipt, &names, &upstreams));
    let probes = wire.probes.iter().map(|answer| {
        let retry_delay_ms = (answer.retry_delay_ms > 0).then_some(answer.retry_delay_ms);
        let subscription = entry(&names, answer.subscription, "subscription of a probe")?.clone();
        Ok(ProbeAnswer { lane: Lane { subscription, retry_delay_ms }, number: answer.number })
    });
    Ok(ReceiptBatch { receipts: receipts.collect::<Result<_, _>>()?, probes: probes.collect::<Result<_, WireError>>()? })
}

fn receipt_from_wire(
    receipt: proto::Receipt,
    names: &[SubscriptionName],
    upstreams: &[UpstreamName],
) -> Result<Receipt, WireError> {
    let outcome = match receipt.outcome() {
        ReceiptOutcome::Unspecified => return Err(WireError::OutOfRange("outcome of a receipt")),
        ReceiptOutcome::Done => Outcome::Done,
        ReceiptOutcome::Failed => failed(&receipt.reason, receipt.detail.clone())?,
        ReceiptOutcome::Retrying => Outcome::Retrying { delay_ms: receipt.duration_ms, detail: receipt.detail.clone() },
        ReceiptOutcome::Processing => Outcome::Processing { lease_ms: receipt.duration_ms },
    };
    Ok(Receipt {
        message_id: MessageId::from_bytes(&receipt.message_id)?,
        subscription: entry(names, receipt.subscription, "subscription of a receipt")?.clone(),
        upstream: entry(upstreams, receipt.upstream, "upstream of a receipt")?.clone(),
        fingerprint: Fingerprint::new(receipt.fingerprint.to_vec())?,
        attempt: attempt_from_wire(receipt.attempt)?,
        sent_at: Timestamp::from_millis(receipt.sent_at_ms),
        outcome,
        trace: receipt.trace.and_then(trace_from_wire),
    })
}

fn failed(reason: &str, detail: String) -> Result<Outcome, WireError> {
    let reason = FailReason::parse(reason).ok_or(WireError::OutOfRange("reason of a failed receipt"))?;
    Ok(Outcome::Failed { reason, detail })
}

fn outcome_to_wire(outcome: &Outcome) -> (ReceiptOutcome, u64, &str, &str) {
    match outcome {
        Outcome::Done => (ReceiptOutcome::Done, 0, "", ""),
        Outcome::Failed { reason, detail } => (ReceiptOutcome::Failed, 0, reason.as_str(), detail),
        Outcome::Retrying { delay_ms, detail } => (ReceiptOutcome::Retrying, *delay_ms, "", detail),
        Outcome::Processing { lease_ms } => (ReceiptOutcome::Processing, *lease_ms, "", ""),
    }
}

/// A receipt as a consumer in any language writes it: everything but `outcome` and `subscription` is copied from the message.
#[derive(Deserialize)]
struct JsonReceipt {
    #[serde(rename = "countersign_wire", default = "wire_version")]
    version: u32,
    message_id: String,
    subscription: SubscriptionName,
    upstream: UpstreamName,
    fingerprint: Fingerprint,
    #[serde(default = "first")]
    attempt: u32,
    #[serde(default)]
    epoch: u32,
    sent_at_ms: i64,
    outcome: JsonOutcome,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    duration_ms: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum JsonOutcome {
    Done,
    Failed,
    Retrying,
    Processing,
}

const fn wire_version() -> u32 {
    crate::names::VERSION
}

const fn first() -> u32 {
    1
}

fn decode_json(bytes: &[u8]) -> Result<ReceiptBatch, WireError> {
    let json: JsonReceipt = serde_json::from_slice(bytes).map_err(|error| WireError::Malformed(error.to_string()))?;
    version_is_known(json.version)?;
    let outcome = match json.outcome {
        JsonOutcome::Done => Outcome::Done,
        JsonOutcome::Failed => failed(json.reason.as_deref().unwrap_or("rejected"), json.detail)?,
        JsonOutcome::Retrying => Outcome::Retrying { delay_ms: json.duration_ms, detail: json.detail },
        JsonOutcome::Processing => Outcome::Processing { lease_ms: json.duration_ms },
    };
    let receipt = Receipt {
        message_id: MessageId::parse(&json.message_id)?,
        subscription: json.subscription,
        upstream: json.upstream,
        fingerprint: json.fingerprint,
        attempt: Attempt { epoch: json.epoch, number: json.attempt },
        sent_at: Timestamp::from_millis(json.sent_at_ms),
        outcome,
        trace: None,
    };
    Ok(ReceiptBatch { receipts: vec![receipt], probes: Vec::new() })
}
