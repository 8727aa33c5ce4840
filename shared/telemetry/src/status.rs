//! How a span says that its step failed.

use tracing::Span;

use crate::names;

/// Marks a span as failed: status `ERROR`, with `word` as its description and as [`names::ERROR_TYPE`]. Words come from small sets and
/// never from a payload, a handler or a server. The span must have been made with both fields ([`names::OTEL_STATUS_DESCRIPTION`] and the
/// type) empty.
pub fn failed(span: &Span, word: &'static str) {
    span.record(names::ERROR_TYPE, word).record(names::OTEL_STATUS_DESCRIPTION, word);
}
