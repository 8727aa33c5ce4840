//! An event about a delivery, as a CloudEvents 1.0 envelope in structured mode.

use countersign_delivery::ports::broker::{HeaderValue, Properties, Publication};
use countersign_delivery::ports::events::{Happening, Recorded};
use serde_json::json;

use crate::names;

/// The CloudEvents attribute `source` of all events.
pub const SOURCE: &str = "/countersign/callback";
/// Leads the CloudEvents attribute `type`; what happened follows.
pub const TYPE_PREFIX: &str = "countersign.delivery.";

/// The event to its exchange, under the routing key `<what>.<subscription>`. `time` is its time after RFC 3339.
#[must_use]
pub fn to_exchange(exchange: String, event: &Recorded, time: &str) -> Publication {
    let Recorded { key, happening, .. } = event;
    let Happening { what, upstream, attempt, reason, at } = happening;
    let (id, kind) = (event.id(), format!("{TYPE_PREFIX}{}", what.as_str()));
    let body = json!({
        "specversion": "1.0",
        "id": id,
        "source": SOURCE,
        "type": kind,
        "time": time,
        "subject": key.message_id.to_string(),
        "datacontenttype": names::JSON,
        "data": {
            "message_id": key.message_id.to_string(),
            "subscription": key.subscription.as_str(),
            "upstream": upstream.as_str(),
            "attempt": attempt.number,
            "epoch": attempt.epoch,
            "reason": reason,
            "at_ms": at.as_millis(),
        },
    });
    let headers = [
        (names::WIRE.to_owned(), HeaderValue::Int(i64::from(names::VERSION))),
        (names::EVENT.to_owned(), HeaderValue::Text(what.as_str().into())),
    ];
    let properties = Properties {
        message_id: Some(id),
        kind: Some(kind),
        content_type: Some(names::CLOUD_EVENT.into()),
        timestamp: u64::try_from(at.as_millis() / 1000).ok(),
        headers: headers.into(),
        ..Properties::default()
    };
    let routing_key = format!("{}.{}", what.as_str(), key.subscription);
    Publication { exchange, routing_key, properties, body: body.to_string().into() }
}
