//! Refusals as gRPC statuses; a caller that is to come back is told when.

use countersign_delivery::ports::PortError;
use prost::Message as _;
use prost::bytes::Bytes;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use crate::refusal::Refusal;
use crate::send::Outcome;
use countersign_telemetry::with_sources;

/// Metadata that clients with retry policies understand: wait so many milliseconds.
pub(super) const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// The code of a refusal, by gRPC and by HTTP.
pub(crate) const fn code(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::Invalid(_) | Refusal::TooLarge(_) => Code::InvalidArgument,
        Refusal::Conflict { .. } => Code::AlreadyExists,
        Refusal::NoSubscription { .. } | Refusal::Returned { .. } => Code::FailedPrecondition,
        Refusal::Exhausted { .. } | Refusal::Full { .. } => Code::ResourceExhausted,
        Refusal::Unavailable(_) | Refusal::Unconfirmed(_) => Code::Unavailable,
        Refusal::Broken(_) => Code::Internal,
    }
}

pub(super) fn of_refusal(refusal: &Refusal) -> Status {
    let (code, words) = (code(refusal), refusal.to_string());
    let Some(retry_ms) = refusal.retry_ms() else { return Status::new(code, words) };
    let mut metadata = MetadataMap::new();
    metadata.insert(PUSHBACK, retry_ms.into());
    let details = retry_info(code, &words, retry_ms);
    Status::with_details_and_metadata(code, words, details, metadata)
}

pub(super) fn of_port(error: &PortError) -> Status {
    let words = with_sources(error);
    if error.is_transient() { Status::unavailable(words) } else { Status::internal(words) }
}

/// When to come back, if the outcome says so.
pub(super) fn pushback(outcome: &Outcome) -> Option<u64> {
    match outcome {
        Outcome::Refused(refusal) => refusal.retry_ms(),
        Outcome::Confirmed(_) | Outcome::Committed(_) => None,
    }
}

/// `google.rpc.Status`: what `grpc-status-details-bin` carries.
#[derive(Clone, PartialEq, prost::Message)]
struct Details {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    more: Vec<prost_types::Any>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

fn retry_info(code: Code, words: &str, retry_ms: u64) -> Bytes {
    let delay = std::time::Duration::from_millis(retry_ms);
    let info = RetryInfo { retry_delay: prost_types::Duration::try_from(delay).ok() };
    let any = prost_types::Any { type_url: "type.googleapis.com/google.rpc.RetryInfo".into(), value: info.encode_to_vec() };
    Details { code: code.into(), message: words.into(), more: vec![any] }.encode_to_vec().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exhausted_caller_is_told_when_to_come_back() {
        let status = of_refusal(&Refusal::Exhausted { what: "full".into(), retry_ms: 1_500 });
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.metadata().get(PUSHBACK).unwrap(), "1500");
        let details = Details::decode(status.details()).unwrap();
        let info = RetryInfo::decode(details.more[0].value.as_slice()).unwrap();
        let delay = info.retry_delay.unwrap();
        assert_eq!((delay.seconds, delay.nanos), (1, 500_000_000));
    }
}
