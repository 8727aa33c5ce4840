//! What a publication is, for the label of a metric; told by where it goes.

use countersign_delivery::ports::broker::{Publication, Published};
use countersign_telemetry::names;
use metrics::{Counter, Histogram};

/// The values of the label `kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Message,
    Check,
    Canary,
    Receipt,
    Probe,
    Retry,
    Dead,
    Event,
    Act,
}

impl Kind {
    const ALL: [Self; 9] =
        [Self::Message, Self::Check, Self::Canary, Self::Receipt, Self::Probe, Self::Retry, Self::Dead, Self::Event, Self::Act];

    pub(super) fn of(publication: &Publication) -> Self {
        let queue = publication.routing_key.as_str();
        if publication.properties.headers.contains_key(countersign_wire::names::PROBE) {
            return Self::Probe;
        }
        if publication.properties.headers.contains_key(countersign_wire::names::EVENT) {
            return Self::Event;
        }
        if publication.properties.headers.contains_key(countersign_wire::names::CANARY) {
            return Self::Canary;
        }
        if countersign_wire::acts::are(&publication.properties) {
            return Self::Act;
        }
        if !publication.exchange.is_empty() {
            return Self::Message;
        }
        let (stem, last) = queue.rsplit_once('.').unwrap_or(("", queue));
        let tier = stem.rsplit('.').next();
        let delayed = last.bytes().all(|byte| byte.is_ascii_digit());
        match last {
            "receipts" => Self::Receipt,
            "checks" => Self::Check,
            "dead" | "quarantine" => Self::Dead,
            _ if delayed && tier == Some("checks") => Self::Check,
            _ if delayed && tier == Some("retry") => Self::Retry,
            _ => Self::Message,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Check => "check",
            Self::Canary => "canary",
            Self::Receipt => "receipt",
            Self::Probe => "probe",
            Self::Retry => "retry",
            Self::Dead => "dead",
            Self::Event => "event",
            Self::Act => "act",
        }
    }
}

/// One handle for each pair of labels, since looking them up costs more than counting.
pub(super) struct Meters(Vec<Meter>);

struct Meter {
    outcomes: [Counter; 4],
    duration: Histogram,
}

impl Meters {
    /// Asks the installed recorder for the handles; install it before.
    pub(super) fn new() -> Self {
        let counter = |kind: Kind, outcome: &'static str| metrics::counter!(names::PUBLISH_TOTAL, "kind" => kind.as_str(), "outcome" => outcome);
        let meter = |kind: Kind| Meter {
            outcomes: ["confirmed", "nacked", "returned", "unknown"].map(|outcome| counter(kind, outcome)),
            duration: metrics::histogram!(names::PUBLISH_CONFIRM_DURATION_SECONDS, "kind" => kind.as_str()),
        };
        Self(Kind::ALL.into_iter().map(meter).collect())
    }

    /// Counts an outcome; `seconds` from the publish to its confirm, if one came.
    pub(super) fn note(&self, kind: Kind, answer: &Published, seconds: Option<f64>) {
        let meter = &self.0[kind as usize];
        let outcome = match answer {
            Published::Confirmed => 0,
            Published::Nacked => 1,
            Published::Returned { .. } => 2,
            Published::Unknown => 3,
        };
        meter.outcomes[outcome].increment(1);
        if let Some(seconds) = seconds.filter(|_| outcome != 3) {
            meter.duration.record(seconds);
        }
    }
}

#[cfg(test)]
mod tests {
    use countersign_delivery::ports::broker::{HeaderValue, Properties};

    use super::*;

    #[test]
    fn kinds_are_told_by_where_they_go() {
        let rows = [
            ("countersign.messages", "order.dead", Kind::Message),
            ("", "inventory.orders", Kind::Message),
            ("", "inventory.orders.dead", Kind::Dead),
            ("", "inventory.orders.retry.1000", Kind::Retry),
            ("", "countersign.receipts", Kind::Receipt),
            ("", "countersign.checks.120000", Kind::Check),
            ("", "countersign.quarantine", Kind::Dead),
        ];
        for (exchange, routing_key, kind) in rows {
            let mut publication = Publication {
                exchange: exchange.into(),
                routing_key: routing_key.into(),
                properties: Properties::default(),
                body: bytes::Bytes::new(),
            };
            assert_eq!(Kind::of(&publication), kind, "{exchange} {routing_key}");
            publication.properties.headers.insert(countersign_wire::names::PROBE.into(), HeaderValue::Int(1));
            assert_eq!(Kind::of(&publication), Kind::Probe);
            publication.properties.headers =
                [(countersign_wire::names::EVENT.to_owned(), HeaderValue::Text("parked".into()))].into();
            assert_eq!(Kind::of(&publication), Kind::Event);
            publication.properties.headers = [(countersign_wire::names::CANARY.to_owned(), HeaderValue::Int(1))].into();
            assert_eq!(Kind::of(&publication), Kind::Canary);
            publication.properties.headers = [(countersign_wire::names::ACTS.to_owned(), HeaderValue::Int(1))].into();
            assert_eq!(Kind::of(&publication), Kind::Act);
        }
    }
}
