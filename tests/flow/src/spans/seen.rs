//! One span as the collector got it.

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span};

/// A span, and what its exporter says of itself.
#[derive(Clone, Debug)]
pub struct Seen {
    resource: Vec<KeyValue>,
    span: Span,
}

/// The spans of one exporter.
pub fn all_of(exported: ResourceSpans) -> impl Iterator<Item = Seen> {
    let resource = exported.resource.map(|resource| resource.attributes).unwrap_or_default();
    let spans = exported.scope_spans.into_iter().flat_map(|scope| scope.spans);
    spans.map(move |span| Seen { resource: resource.clone(), span })
}

impl Seen {
    /// `service kind name`, then those of attempt, outcome, verdict and reason that it has, then `!` and the words of a failure.
    #[must_use]
    pub fn line(&self) -> String {
        let attempt = self.int("countersign.attempt").map(|attempt| format!("attempt={attempt}"));
        let words = ["outcome", "verdict", "reason"]
            .into_iter()
            .filter_map(|key| Some(format!("{key}={}", self.text(&format!("countersign.{key}"))?)));
        let status = self.span.status.as_ref().filter(|status| status.code() == StatusCode::Error);
        let failure = status.map(|status| format!("!{}", status.message));
        let beginning = format!("{} {} {}", self.service(), self.kind(), self.span.name);
        let parts: Vec<String> = std::iter::once(beginning).chain(attempt).chain(words).chain(failure).collect();
        parts.join(" ")
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.span.name
    }

    /// The name of the service, without the product's.
    #[must_use]
    pub fn service(&self) -> String {
        self.of_resource("service.name").unwrap_or_default().trim_start_matches("countersign-").to_owned()
    }

    /// An attribute of its exporter.
    #[must_use]
    pub fn of_resource(&self, key: &str) -> Option<String> {
        text(&self.resource, key)
    }

    /// An attribute that is a text.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<String> {
        text(&self.span.attributes, key)
    }

    /// An attribute that is a number.
    #[must_use]
    pub fn int(&self, key: &str) -> Option<i64> {
        match value(&self.span.attributes, key)? {
            Value::IntValue(number) => Some(*number),
            _ => None,
        }
    }

    /// Whether it is of this step.
    #[must_use]
    pub fn is_step(&self, step: &str) -> bool {
        self.text("countersign.step").as_deref() == Some(step)
    }

    /// The kind, in the words of the tracing bridge.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.span.kind() {
            SpanKind::Unspecified => "unspecified",
            SpanKind::Internal => "internal",
            SpanKind::Server => "server",
            SpanKind::Client => "client",
            SpanKind::Producer => "producer",
            SpanKind::Consumer => "consumer",
        }
    }

    /// Its trace.
    #[must_use]
    pub fn trace_id(&self) -> &[u8] {
        &self.span.trace_id
    }

    /// Its own id.
    #[must_use]
    pub fn span_id(&self) -> &[u8] {
        &self.span.span_id
    }

    /// The id of its parent; empty: it begins its trace.
    #[must_use]
    pub fn parent_id(&self) -> &[u8] {
        &self.span.parent_span_id
    }

    /// Traces and spans that it is linked to.
    #[must_use]
    pub fn links(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.span.links.iter().map(|link| (link.trace_id.clone(), link.span_id.clone())).collect()
    }
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    match value(attributes, key)? {
        Value::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}

fn value<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a Value> {
    attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?.value.as_ref()
}
