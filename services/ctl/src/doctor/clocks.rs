//! Whether the clocks agree.
//!
//! Nothing that must not happen depends on it: leases are compared by the clock of the store they lie in, heartbeats by the observer's own.
//! What a clock that is off does harm is the age of messages: upstream stamps `sent_at`, and what is older than the retention is refused as
//! stale, by downstream's and callback's clocks.

use countersign_delivery::time::{MAX_SKEW_MS, skew_ms};
use jiff::fmt::rfc2822::DateTimeParser;

use crate::doctor::ask::Answer;
use crate::doctor::finding::Finding;

const SKEW: &str = "clocks.skew";
/// `Date` tells whole seconds.
const DATE_STEP_MS: i64 = 1_000;

/// One clock by an exact time.
pub fn judge_exact(subject: &str, between_ms: (i64, i64), now_ms: i64) -> Finding {
    judge(subject, skew_ms(between_ms, (now_ms, now_ms)))
}

/// One clock by the `Date` of an answer; None when there is none.
pub fn judge_date(subject: &str, answer: &Answer) -> Option<Finding> {
    let date = DateTimeParser::new().parse_timestamp(answer.date.as_deref()?).ok()?.as_millisecond();
    Some(judge(subject, skew_ms(answer.between_ms, (date, date + DATE_STEP_MS))))
}

fn judge(subject: &str, skew_ms: i64) -> Finding {
    if skew_ms.abs() <= MAX_SKEW_MS {
        return Finding::ok(SKEW, subject, format!("within {MAX_SKEW_MS} ms of this machine's clock"));
    }
    let direction = if skew_ms > 0 { "ahead of" } else { "behind" };
    Finding::warning(
        SKEW,
        subject,
        format!(
            "its clock is at least {} ms {direction} this machine's: the age of messages is misjudged by that much when they are old \
             enough to be stale, and times shown differ; leases, heartbeats and verdicts are not affected",
            skew_ms.abs()
        ),
        "keep the time on every machine, this one too, with chrony or systemd-timesyncd",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Severity;

    #[test]
    fn a_date_header_is_read_to_the_second() {
        let second = 784_111_777_000;
        let answer = |between_ms| Answer {
            status: 200,
            body: String::new(),
            date: Some("Sun, 06 Nov 1994 08:49:37 GMT".into()),
            between_ms,
        };
        let severity = |at: i64| judge_date("upstream", &answer((at, at))).map(|finding| finding.severity);
        assert_eq!(severity(second - 2_000), Some(Severity::Ok));
        assert_eq!(severity(second - 2_001), Some(Severity::Warning));
        assert_eq!(severity(second + 3_000), Some(Severity::Ok));
        assert_eq!(severity(second + 3_001), Some(Severity::Warning));
        assert_eq!(judge_date("upstream", &Answer { date: None, ..answer((0, 0)) }), None);
        assert_eq!(judge_exact("redis", (0, 10), 2_011).severity, Severity::Warning);
    }
}
