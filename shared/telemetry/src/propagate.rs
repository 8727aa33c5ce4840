//! Carries a trace from one service to the next, inside message headers and gRPC metadata.
//!
//! The form is that of W3C Trace Context: `traceparent` names the trace and the span that sent the message, `tracestate`
//! is a note of tracing vendors that is passed on unread.
//!
//! **Order matters.** A span's parent is fixed when the span starts, and it starts when it is first entered or when
//! [`of`] or [`current`] is asked about it. So: make the span, [`set_parent`], [`link`], and only then enter or
//! instrument it. Called too late, `set_parent` returns false and the span stays where it was.

mod traceparent;

use std::str::FromStr as _;

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

pub use traceparent::{TraceParent, TraceParentError};

/// The context of the current span as `(traceparent, tracestate)`; none when no trace is made.
#[must_use]
pub fn current() -> Option<(String, Option<String>)> {
    of(&Span::current())
}

/// The context of `span` as `(traceparent, tracestate)`; none when no trace is made. Starts the span: its parent is
/// fixed from here on.
#[must_use]
pub fn of(span: &Span) -> Option<(String, Option<String>)> {
    let context = span.context();
    let otel = context.span();
    let context = otel.span_context();
    if !context.is_valid() {
        return None;
    }
    let parent = TraceParent {
        trace_id: u128::from_be_bytes(context.trace_id().to_bytes()),
        span_id: u64::from_be_bytes(context.span_id().to_bytes()),
        sampled: context.is_sampled(),
    };
    let state = context.trace_state().header();
    Some((parent.to_string(), (!state.is_empty()).then_some(state)))
}

/// Makes `span` a child of the span named by `traceparent`. Must come before the span is entered.
///
/// Returns whether it took: false for text that is not a traceparent (the span then begins a trace of its own, as the
/// standard asks), for a span that was entered before, and when no trace is made.
#[allow(clippy::must_use_candidate, reason = "most callers cannot do anything about a refusal")]
pub fn set_parent(span: &Span, traceparent: &str, tracestate: Option<&str>) -> bool {
    let Some(remote) = remote(traceparent, tracestate) else {
        return false;
    };
    let parent = Context::new().with_remote_span_context(remote);
    span.set_parent(parent).is_ok()
}

/// Notes on `span` that the span named by `traceparent` led to it, without becoming its child.
///
/// Should come before the span is entered: a link known at the start is seen by samplers. May be called many times, for a
/// batch. Returns false for text that is not a traceparent.
#[allow(clippy::must_use_candidate, reason = "most callers cannot do anything about a refusal")]
pub fn link(span: &Span, traceparent: &str, tracestate: Option<&str>) -> bool {
    let Some(remote) = remote(traceparent, tracestate) else {
        return false;
    };
    span.add_link(remote);
    true
}

fn remote(traceparent: &str, tracestate: Option<&str>) -> Option<SpanContext> {
    let parent = TraceParent::from_str(traceparent).ok()?;
    let flags = if parent.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let state = tracestate.and_then(|s| TraceState::from_str(s).ok()).unwrap_or_default();
    Some(SpanContext::new(
        TraceId::from_bytes(parent.trace_id.to_be_bytes()),
        SpanId::from_bytes(parent.span_id.to_be_bytes()),
        flags,
        true,
        state,
    ))
}
