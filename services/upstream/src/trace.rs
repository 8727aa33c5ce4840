//! The trace a caller belongs to, and the span of its call.

use countersign_delivery::TraceContext;
use countersign_telemetry::propagate::TraceParent;
use countersign_telemetry::{names, propagate};
use tracing::Span;

/// Longest `tracestate` that is passed on, bytes: what the standard asks for at least.
const MAX_TRACESTATE_BYTES: usize = 512;

/// None for what is no traceparent: the standard asks to begin a trace of one's own then.
pub(crate) fn trace_of(traceparent: &str, tracestate: &str) -> Option<TraceContext> {
    let parent: TraceParent = traceparent.parse().ok()?;
    let fits = (1..=MAX_TRACESTATE_BYTES).contains(&tracestate.len());
    Some(TraceContext { traceparent: parent.to_string(), tracestate: fits.then(|| tracestate.to_owned()) })
}

/// The span of one call that brings so many messages, child of the caller's.
pub(crate) fn accept_span(caller: Option<&TraceContext>, count: usize) -> Span {
    let span = tracing::info_span!(
        names::SPAN_ACCEPT,
        { names::OTEL_KIND } = names::SERVER,
        { names::MESSAGING_BATCH_COUNT } = names::int(count)
    );
    if let Some(trace) = caller.filter(|_| !span.is_disabled()) {
        propagate::set_parent(&span, &trace.traceparent, trace.tracestate.as_deref());
    }
    span
}
