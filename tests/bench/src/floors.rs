//! The least that each figure must reach.

use anyhow::ensure;

use crate::Row;

/// A bound of one figure.
struct Floor {
    scenario: &'static str,
    metric: &'static str,
    bound: Bound,
}

/// Which way it holds, of which of a row's figures.
enum Bound {
    /// `of_raw` is at least this.
    Ratio(f64),
    /// `of_raw` is at most this.
    RatioAtMost(f64),
    /// The median is at most this.
    AtMost(f64),
}

const FLOORS: &[Floor] = &[
    Floor { scenario: "stream", metric: "verified", bound: Bound::Ratio(0.6) },
    Floor { scenario: "unary", metric: "verified", bound: Bound::Ratio(0.35) },
    Floor { scenario: "http", metric: "delivered", bound: Bound::Ratio(0.5) },
    Floor { scenario: "latency", metric: "p99 500/s", bound: Bound::RatioAtMost(2.0) },
    Floor { scenario: "memory", metric: "peak upstream", bound: Bound::AtMost(100.0) },
    Floor { scenario: "memory", metric: "peak downstream", bound: Bound::AtMost(100.0) },
    Floor { scenario: "memory", metric: "peak callback", bound: Bound::AtMost(100.0) },
    Floor { scenario: "memory", metric: "upstream with messages unconfirmed", bound: Bound::AtMost(200.0) },
    Floor { scenario: "start", metric: "upstream", bound: Bound::AtMost(1_000.0) },
    Floor { scenario: "start", metric: "downstream", bound: Bound::AtMost(1_000.0) },
    Floor { scenario: "start", metric: "callback", bound: Bound::AtMost(1_000.0) },
    Floor { scenario: "modes", metric: "verified: business WAL", bound: Bound::AtMost(500.0) },
    Floor { scenario: "modes", metric: "verified: MSG DB WAL", bound: Bound::AtMost(250.0) },
    // A heartbeat a second is a row too.
    Floor { scenario: "modes", metric: "verified: business rows", bound: Bound::AtMost(1.01) },
    Floor { scenario: "modes", metric: "verified: MSG DB rows", bound: Bound::AtMost(1.01) },
    Floor { scenario: "guards", metric: "redis: Redis round trips", bound: Bound::AtMost(0.1) },
];

/// Whether every figure that was measured and has a floor reaches it.
///
/// # Errors
/// Names each that does not.
pub(crate) fn hold(rows: &[Row]) -> anyhow::Result<()> {
    let below: Vec<String> = rows.iter().filter_map(broken).collect();
    ensure!(below.is_empty(), "below the floor:\n  {}", below.join("\n  "));
    Ok(())
}

fn broken(row: &Row) -> Option<String> {
    let floor = FLOORS.iter().find(|floor| floor.scenario == row.scenario && floor.metric == row.metric)?;
    let name = format!("{} {}", row.scenario, row.metric);
    match floor.bound {
        Bound::Ratio(least) => {
            let ratio = row.of_raw.unwrap_or_default();
            (ratio < least).then(|| format!("{name}: {ratio:.2} of raw, at least {least:.2}"))
        }
        Bound::RatioAtMost(most) => {
            // A figure that was not compared does not hold.
            let ratio = row.of_raw.unwrap_or(f64::INFINITY);
            (ratio > most).then(|| format!("{name}: {ratio:.2} of raw, at most {most:.2}"))
        }
        Bound::AtMost(most) => (row.median > most).then(|| format!("{name}: {:.3} {}, at most {most}", row.median, row.unit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_breaks_its_bound_is_named_and_others_are_not() {
        let row = |scenario: &str, metric: &str, median, of_raw| Row {
            scenario: scenario.into(),
            metric: metric.into(),
            median,
            min: 0.0,
            max: 9.0,
            n: 1,
            unit: "units".into(),
            of_raw,
        };
        let rows = [
            (row("stream", "verified", 1.0, Some(0.6)), None),
            (row("stream", "handled", 1.0, Some(0.1)), None),
            (row("stream", "verified", 1.0, Some(0.59)), Some("stream verified: 0.59 of raw, at least 0.60")),
            (row("latency", "p99 500/s", 9.0, Some(2.0)), None),
            (row("latency", "p99 500/s", 9.0, Some(2.1)), Some("latency p99 500/s: 2.10 of raw, at most 2.00")),
            (row("guards", "redis: Redis round trips", 0.1, None), None),
            (row("guards", "redis: Redis round trips", 0.11, None), Some("redis: Redis round trips: 0.110 units, at most 0.1")),
        ];
        for (row, wanted) in rows {
            let said = hold(std::slice::from_ref(&row)).err().map(|error| error.to_string());
            match wanted {
                None => assert_eq!(said, None),
                Some(words) => assert!(said.as_ref().is_some_and(|said| said.contains(words)), "{said:?}"),
            }
        }
    }
}
