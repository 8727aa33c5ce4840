//! `traceparent` as a value: read and written without any tracing library.

use std::fmt;
use std::str::FromStr;

/// Length of `00-<32 hex>-<16 hex>-<2 hex>`, which later versions may only extend.
const LENGTH: usize = 55;

/// The `traceparent` header of W3C Trace Context, version 00.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    /// The trace; never 0.
    pub trace_id: u128,
    /// The span that sent it; never 0.
    pub span_id: u64,
    /// Whether the sender keeps this trace.
    pub sampled: bool,
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.sampled);
        write!(f, "00-{:032x}-{:016x}-{flags:02x}", self.trace_id, self.span_id)
    }
}

/// The text is not a `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent: expected 00-<32 hex>-<16 hex>-<2 hex>, lower case, ids not zero")]
pub struct TraceParentError;

impl FromStr for TraceParent {
    type Err = TraceParentError;

    /// Reads version 00, and the known part of later versions; version ff is forbidden by the standard.
    fn from_str(text: &str) -> Result<Self, TraceParentError> {
        let known = text.get(..LENGTH).ok_or(TraceParentError)?;
        let rest = text.get(LENGTH..).ok_or(TraceParentError)?;
        let mut parts = known.split('-');
        let mut part = |length: usize| {
            let part = parts.next().filter(|p| p.len() == length)?;
            part.bytes().all(is_lower_hex).then_some(part)
        };
        let (Some(version), Some(trace), Some(span), Some(flags)) = (part(2), part(32), part(16), part(2)) else {
            return Err(TraceParentError);
        };
        let extended = version != "00" && rest.starts_with('-');
        if version == "ff" || !(rest.is_empty() || extended) {
            return Err(TraceParentError);
        }
        let parent = Self {
            trace_id: u128::from_str_radix(trace, 16).map_err(|_| TraceParentError)?,
            span_id: u64::from_str_radix(span, 16).map_err(|_| TraceParentError)?,
            sampled: u8::from_str_radix(flags, 16).map_err(|_| TraceParentError)? & 1 == 1,
        };
        if parent.trace_id == 0 || parent.span_id == 0 {
            return Err(TraceParentError);
        }
        Ok(parent)
    }
}

const fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_survives_reading_and_writing() {
        let parent: TraceParent = EXAMPLE.parse().unwrap();
        assert_eq!(parent.span_id, 0x00f0_67aa_0ba9_02b7);
        assert!(parent.sampled);
        assert_eq!(parent.to_string(), EXAMPLE);
    }

    #[test]
    fn the_known_part_of_a_later_version_is_read() {
        let later = EXAMPLE.replacen("00-", "cc-", 1) + "-what-comes-later";
        assert_eq!(later.parse::<TraceParent>().unwrap().to_string(), EXAMPLE);
    }

    #[test]
    fn what_the_standard_forbids_is_refused() {
        let wrong = [
            String::new(),
            "00-4bf92f".to_owned(),
            EXAMPLE.to_uppercase(),
            EXAMPLE.replacen("00-", "ff-", 1),
            EXAMPLE.to_owned() + "-more",
            EXAMPLE.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            EXAMPLE.replace("00f067aa0ba902b7", &"0".repeat(16)),
            EXAMPLE.replace('-', "_"),
            "é".repeat(40),
        ];
        for text in wrong {
            assert_eq!(text.parse::<TraceParent>(), Err(TraceParentError), "{text}");
        }
    }
}
