//! Which dead letters: the options that all verbs share.

use std::str::FromStr as _;

use anyhow::bail;
use clap::Args;
use countersign_wire::proto::DeadLetterFilter;

/// Which queue.
#[derive(Args)]
pub struct Place {
    /// The subscription whose dead letters these are.
    #[arg(long, required_unless_present = "quarantine", conflicts_with = "quarantine")]
    pub subscription: Option<String>,
    /// The quarantine queue instead: what nobody could be told of.
    #[arg(long)]
    pub quarantine: bool,
}

/// Which letters of it.
#[derive(Args)]
pub struct Selection {
    /// Only these messages; may be repeated, or separated by commas.
    #[arg(long = "id", value_delimiter = ',')]
    ids: Vec<String>,
    /// Only these reasons: rejected, poison, undecodable, conflict, stale, `retries_exhausted`, `dead_lettered`, `outcome_unknown`.
    #[arg(long = "reason", value_delimiter = ',')]
    reasons: Vec<String>,
    /// Only this business type.
    #[arg(long = "type", default_value = "")]
    kind: String,
    // Not called `upstream`: that is the service's address, which every verb has.
    /// Only of this upstream.
    #[arg(long = "from", value_name = "UPSTREAM", default_value = "")]
    sender: String,
    /// Only with this original routing key; * stands for one word, # for any number.
    #[arg(long, default_value = "")]
    routing_key: String,
    /// Only what died before: an age such as 30m, 2h or 3d, or a time such as 2026-01-31T12:00:00Z.
    #[arg(long)]
    before: Option<String>,
    /// Only what died at or after, likewise.
    #[arg(long)]
    after: Option<String>,
}

/// Milliseconds since the Unix epoch.
pub fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

impl Selection {
    /// What the service is asked for, and the messages that were named.
    pub fn filter(self, place: Place, now_ms: i64) -> anyhow::Result<(DeadLetterFilter, Vec<String>)> {
        let time = |option: &str, text: Option<String>| text.map_or(Ok(0), |text| moment(option, &text, now_ms));
        let filter = DeadLetterFilter {
            subscription: place.subscription.unwrap_or_default(),
            quarantine: place.quarantine,
            reasons: self.reasons,
            r#type: self.kind,
            message_ids: self.ids.clone(),
            upstream: self.sender,
            routing_key: self.routing_key,
            died_after_ms: time("--after", self.after)?,
            died_before_ms: time("--before", self.before)?,
        };
        Ok((filter, self.ids))
    }
}

/// An age before now, or a time of day.
pub fn moment(option: &str, text: &str, now_ms: i64) -> anyhow::Result<i64> {
    if let Ok(time) = jiff::Timestamp::from_str(text) {
        return Ok(time.as_millisecond());
    }
    let digits = text.len() - text.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 24 * 3_600_000,
        _ => 0,
    };
    match number.parse::<i64>().ok().and_then(|number| now_ms.checked_sub(number.checked_mul(unit_ms)?)) {
        Some(at) if unit_ms > 0 => Ok(at),
        _ => bail!("{option} {text} is neither an age such as 30m, 2h or 3d nor a time such as 2026-01-31T12:00:00Z"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_times_are_read() {
        let now = 1_800_000_000_000;
        let rows = [
            ("0s", Some(now)),
            ("90s", Some(now - 90_000)),
            ("30m", Some(now - 1_800_000)),
            ("2h", Some(now - 7_200_000)),
            ("3d", Some(now - 259_200_000)),
            ("2026-01-31T12:00:00Z", Some(1_769_860_800_000)),
            ("2026-01-31T13:00:00+01:00", Some(1_769_860_800_000)),
            ("2", None),
            ("h", None),
            ("2w", None),
            ("-2h", None),
            ("2026-01-31", None),
            ("9223372036854775807d", None),
            ("", None),
        ];
        for (text, expected) in rows {
            assert_eq!(moment("--before", text, now).ok(), expected, "{text}");
        }
        assert!(moment("--before", "soon", now).unwrap_err().to_string().contains("--before soon"));
    }
}
