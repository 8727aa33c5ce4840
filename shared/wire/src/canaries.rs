//! Canaries: check batches without an entry, whose headers say when they were sent and through which tier.
//!
//! **Invariant:** the body is a whole batch of this version, so a callback that knows no canaries finds nothing to judge in it.

use countersign_delivery::check::{Canary, CheckBatch};
use countersign_delivery::ports::broker::{HeaderValue, Properties, Publication};
use countersign_delivery::{Timestamp, Topology, UpstreamName};

use crate::{checks, names, publication};

/// Who stands as sender in a batch without an entry; nobody is ever asked by that name.
const NOBODY: &str = "canary";

/// The publication of one canary, to its check tier. `message_id` is unique among the publications in flight. None for a tier whose delay
/// no header can say.
#[must_use]
pub fn publication(canary: Canary, message_id: String, topology: &Topology) -> Option<Publication> {
    let batch = CheckBatch { upstream: UpstreamName::new(NOBODY).ok()?, checks: Vec::new() };
    let mut publication = publication::to_queue(topology.check_tier_queue(canary.delay_ms), message_id, checks::encode(&batch));
    let delay = HeaderValue::Int(i64::try_from(canary.delay_ms).ok()?);
    let headers = &mut publication.properties.headers;
    headers.insert(names::CANARY.into(), HeaderValue::Int(canary.sent_at.as_millis()));
    headers.insert(names::CANARY_DELAY.into(), delay);
    Some(publication)
}

/// What a delivery says that is a canary; none for anything else.
#[must_use]
pub fn read(properties: &Properties) -> Option<Canary> {
    let sent_at = Timestamp::from_millis(properties.headers.get(names::CANARY)?.as_int()?);
    let delay_ms = u64::try_from(properties.headers.get(names::CANARY_DELAY)?.as_int()?).ok()?;
    Some(Canary { sent_at, delay_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canary_is_read_back_and_is_a_batch_of_nothing_to_whoever_does_not_know_it() {
        let canary = Canary { sent_at: Timestamp::from_millis(1_700_000_000_123), delay_ms: 15_000 };
        let topology = Topology::default();
        let sent = publication(canary, "canary/1".into(), &topology).unwrap();
        assert_eq!((sent.exchange.as_str(), sent.routing_key.as_str()), ("", "countersign.checks.15000"));
        assert_eq!(read(&sent.properties), Some(canary));
        assert_eq!(checks::decode(sent.body).unwrap().checks, []);
        assert_eq!(read(&publication::to_queue("q".into(), "check/1".into(), Vec::new().into()).properties), None);
    }
}
