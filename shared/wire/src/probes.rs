//! Probes: empty messages whose headers say which one it is.

use std::collections::BTreeMap;

use countersign_delivery::Topology;
use countersign_delivery::ports::broker::{HeaderValue, Properties, Publication};
use countersign_delivery::probe::Lane;
use prost::bytes::Bytes;

use crate::names;

/// The publication of one probe: to the work queue, or to the retry tier that leads there. None for an unknown subscription or tier.
#[must_use]
pub fn publication(lane: &Lane, number: u64, topology: &Topology) -> Option<Publication> {
    let subscription = topology.subscription(&lane.subscription)?;
    let routing_key = match lane.retry_delay_ms {
        None => subscription.name.to_string(),
        Some(delay) if subscription.retry_delays_ms.contains(&delay) => subscription.retry_queue(delay),
        Some(_) => return None,
    };
    let retry = lane.retry_delay_ms.unwrap_or(0);
    let headers = BTreeMap::from([
        (names::WIRE.to_owned(), HeaderValue::Int(i64::from(names::VERSION))),
        (names::PROBE.to_owned(), HeaderValue::Int(i64::try_from(number).ok()?)),
        (names::PROBE_RETRY.to_owned(), HeaderValue::Int(i64::try_from(retry).ok()?)),
    ]);
    let message_id = Some(format!("probe/{}/{retry}/{number}", lane.subscription));
    let properties = Properties { message_id, headers, ..Properties::default() };
    Some(Publication { exchange: String::new(), routing_key, properties, body: Bytes::new() })
}

/// The number and retry tier of a delivery that is a probe; none for anything else.
#[must_use]
pub fn read(properties: &Properties) -> Option<(u64, Option<u64>)> {
    let number = u64::try_from(properties.headers.get(names::PROBE)?.as_int()?).ok()?;
    let retry = properties.headers.get(names::PROBE_RETRY).and_then(HeaderValue::as_int).unwrap_or(0);
    Some((number, u64::try_from(retry).ok().filter(|delay| *delay > 0)))
}
