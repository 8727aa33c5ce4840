//! Conversions that several batches share.

use countersign_delivery::message::{Attempt, TraceContext};

use crate::error::WireError;
use crate::proto;

pub(crate) fn attempt_to_wire(attempt: Attempt) -> proto::Attempt {
    proto::Attempt { epoch: attempt.epoch, number: attempt.number }
}

pub(crate) fn attempt_from_wire(attempt: Option<proto::Attempt>) -> Result<Attempt, WireError> {
    let attempt = attempt.ok_or(WireError::Missing("attempt"))?;
    Ok(Attempt { epoch: attempt.epoch, number: attempt.number })
}

pub(crate) fn trace_to_wire(trace: &TraceContext) -> proto::TraceContext {
    proto::TraceContext { traceparent: trace.traceparent.clone(), tracestate: trace.tracestate.clone().unwrap_or_default() }
}

pub(crate) fn trace_from_wire(trace: proto::TraceContext) -> Option<TraceContext> {
    let tracestate = (!trace.tracestate.is_empty()).then_some(trace.tracestate);
    (!trace.traceparent.is_empty()).then_some(TraceContext { traceparent: trace.traceparent, tracestate })
}

pub(crate) fn version_is_known(version: u32) -> Result<(), WireError> {
    if version == crate::names::VERSION { Ok(()) } else { Err(WireError::UnknownVersion(i64::from(version))) }
}

/// A dictionary under construction: each distinct value gets the next index.
pub(crate) struct Dictionary<T> {
    entries: Vec<T>,
}

impl<T: PartialEq> Dictionary<T> {
    pub(crate) const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// The index of a value; batches have few distinct ones, so a scan is quickest.
    pub(crate) fn index(&mut self, value: T) -> u32 {
        let at = self.entries.iter().position(|entry| *entry == value).unwrap_or_else(|| {
            self.entries.push(value);
            self.entries.len() - 1
        });
        u32::try_from(at).unwrap_or(u32::MAX)
    }

    pub(crate) fn into_entries(self) -> Vec<T> {
        self.entries
    }
}

/// The entry of a received dictionary.
pub(crate) fn entry<'a, T>(dictionary: &'a [T], index: u32, what: &'static str) -> Result<&'a T, WireError> {
    usize::try_from(index).ok().and_then(|index| dictionary.get(index)).ok_or(WireError::OutOfRange(what))
}
