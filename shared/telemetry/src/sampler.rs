//! Which traces are kept.

use opentelemetry::trace::{Link, SpanContext, SpanKind, TraceContextExt as _, TraceId};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, SamplingResult, ShouldSample};

use crate::names;

/// Steps that are rare and worth seeing whatever their message's trace came to: they begin what is seen of it.
const ALWAYS: [&str; 2] = ["7a", "7b"];

/// Keeps a share of the traces that begin here, and every other one as its beginning was decided: a child as its parent, a trace that is
/// linked to others (a check) if one of those is kept. What is sent again is kept always, from there on.
///
/// The share is of trace ids, so several services that are asked about one id say the same.
#[derive(Clone, Debug)]
pub struct WholeTraces {
    begun_here: Sampler,
}

impl WholeTraces {
    /// Keeps this share, 0.0 to 1.0, of what begins here.
    pub fn of(ratio: f64) -> Self {
        Self { begun_here: Sampler::TraceIdRatioBased(ratio) }
    }
}

impl ShouldSample for WholeTraces {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let parent_span = parent.map(|context| context.span().span_context().clone()).filter(SpanContext::is_valid);
        let kept = if is_always_kept(attributes) {
            true
        } else if let Some(parent) = &parent_span {
            parent.is_sampled()
        } else if links.is_empty() {
            return self.begun_here.should_sample(parent, trace_id, name, kind, attributes, links);
        } else {
            links.iter().any(|link| link.span_context.is_sampled())
        };
        SamplingResult {
            decision: if kept { SamplingDecision::RecordAndSample } else { SamplingDecision::Drop },
            attributes: Vec::new(),
            trace_state: parent_span.map(|span| span.trace_state().clone()).unwrap_or_default(),
        }
    }
}

fn is_always_kept(attributes: &[KeyValue]) -> bool {
    let step = attributes.iter().find(|attribute| attribute.key.as_str() == names::STEP);
    step.is_some_and(|step| matches!(&step.value, Value::String(step) if ALWAYS.contains(&step.as_str())))
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanId, TraceFlags, TraceState};

    use super::*;

    const LOW: TraceId = TraceId::from_bytes(1_u128.to_be_bytes());
    const HIGH: TraceId = TraceId::from_bytes([0xff; 16]);

    fn span(sampled: bool) -> SpanContext {
        let flags = if sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
        SpanContext::new(HIGH, SpanId::from(7_u64), flags, true, TraceState::default())
    }

    fn is_kept(ratio: f64, parent: Option<bool>, trace_id: TraceId, links: &[bool], step: &'static str) -> bool {
        let parent = parent.map(|sampled| Context::new().with_remote_span_context(span(sampled)));
        let links: Vec<Link> = links.iter().map(|sampled| Link::with_context(span(*sampled))).collect();
        let attributes = [KeyValue::new(names::STEP, step)];
        let sampler = WholeTraces::of(ratio);
        let result = sampler.should_sample(parent.as_ref(), trace_id, "any", &SpanKind::Internal, &attributes, &links);
        result.decision == SamplingDecision::RecordAndSample
    }

    #[test]
    fn what_begins_here_is_decided_by_its_id_and_the_rest_by_its_beginning() {
        let table = [
            // ratio, parent, id, links, step -> kept
            (1.0, None, HIGH, &[][..], "1", true),
            (0.0, None, LOW, &[], "1", false),
            (0.5, None, LOW, &[], "1", true),
            (0.5, None, HIGH, &[], "1", false),
            (0.0, Some(true), HIGH, &[], "3", true),
            (1.0, Some(false), LOW, &[], "3", false),
            (0.0, None, HIGH, &[false, true], "6", true),
            (1.0, None, LOW, &[false], "6", false),
            (0.0, Some(false), HIGH, &[false], "7a", true),
            (0.0, Some(false), HIGH, &[], "7b", true),
        ];
        for (ratio, parent, id, links, step, kept) in table {
            assert_eq!(is_kept(ratio, parent, id, links, step), kept, "{ratio} {parent:?} {id} {links:?} {step}");
        }
    }

    #[test]
    fn the_tracestate_of_the_parent_is_passed_on() {
        let state = TraceState::from_key_value([("vendor", "note")]).unwrap();
        let parent = SpanContext::new(HIGH, SpanId::from(7_u64), TraceFlags::SAMPLED, true, state.clone());
        let parent = Context::new().with_remote_span_context(parent);
        let result = WholeTraces::of(1.0).should_sample(Some(&parent), HIGH, "any", &SpanKind::Internal, &[], &[]);
        assert_eq!(result.trace_state, state);
    }
}
