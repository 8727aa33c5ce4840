//! Times and spans of time as people say them.

use crate::output;

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// `1 min 20 s`: the two largest units.
pub fn words(ms: u64) -> String {
    let two = |large: u64, of: &str, small: u64, rest: &str| {
        let (whole, part) = (ms / large, ms % large / small);
        if part == 0 { format!("{whole} {of}") } else { format!("{whole} {of} {part} {rest}") }
    };
    match ms {
        ..SECOND => format!("{ms} ms"),
        SECOND..MINUTE => format!("{} s", ms / SECOND),
        MINUTE..HOUR => two(MINUTE, "min", SECOND, "s"),
        HOUR..DAY => two(HOUR, "h", MINUTE, "min"),
        DAY.. => two(DAY, "d", HOUR, "h"),
    }
}

/// `in 1 min 20 s`, `2 min ago`, or `now` within a second.
pub fn relative(at_ms: i64, now_ms: i64) -> String {
    let ms = at_ms.abs_diff(now_ms);
    match (ms < SECOND, at_ms > now_ms) {
        (true, _) => "now".to_owned(),
        (false, true) => format!("in {}", words(ms)),
        (false, false) => format!("{} ago", words(ms)),
    }
}

/// `2026-01-02T03:04:05.678Z (2 min ago)`.
pub fn at(at_ms: i64, now_ms: i64) -> String {
    format!("{} ({})", output::time(at_ms), relative(at_ms, now_ms))
}

/// The time so many milliseconds later.
pub fn later(at_ms: i64, ms: u64) -> i64 {
    at_ms.saturating_add_unsigned(ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_in_their_two_largest_units() {
        let rows = [
            (0, "0 ms"),
            (999, "999 ms"),
            (20_400, "20 s"),
            (80_000, "1 min 20 s"),
            (120_000, "2 min"),
            (3_600_000, "1 h"),
            (7_500_000, "2 h 5 min"),
            (90_000_000, "1 d 1 h"),
        ];
        for (ms, expected) in rows {
            assert_eq!(words(ms), expected);
        }
    }

    #[test]
    fn times_are_told_from_now() {
        assert_eq!(relative(80_000, 0), "in 1 min 20 s");
        assert_eq!(relative(0, 120_000), "2 min ago");
        assert_eq!(relative(500, 0), "now");
        assert_eq!(at(1_700_000_000_123, 1_700_000_080_123), "2023-11-14T22:13:20.123Z (1 min 20 s ago)");
    }
}
