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
    /// The median is at most this.
    AtMost(f64),
}

const FLOORS: &[Floor] = &[
    Floor { scenario: "stream", metric: "verified", bound: Bound::Ratio(0.6) },
    Floor { scenario: "unary", metric: "verified", bound: Bound::Ratio(0.35) },
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
        Bound::AtMost(most) => (row.median > most).then(|| format!("{name}: {:.3} {}, at most {most}", row.median, row.unit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_below_its_floor_is_named_and_others_are_not() {
        let row = |metric: &str, ratio| Row {
            scenario: "stream".into(),
            metric: metric.into(),
            median: 1.0,
            min: 1.0,
            max: 1.0,
            n: 1,
            unit: "messages/s".into(),
            of_raw: Some(ratio),
        };
        assert!(hold(&[row("verified", 0.6), row("handled", 0.1)]).is_ok());
        let said = hold(&[row("verified", 0.59)]).err().map(|error| error.to_string());
        assert!(said.is_some_and(|said| said.contains("stream verified: 0.59 of raw, at least 0.60")));
    }

    #[test]
    fn a_figure_above_its_bound_is_named() {
        let row = |median| Row {
            scenario: "guards".into(),
            metric: "redis: Redis round trips".into(),
            median,
            min: 0.0,
            max: 1.0,
            n: 1,
            unit: "per message".into(),
            of_raw: None,
        };
        assert!(hold(&[row(0.1)]).is_ok());
        let said = hold(&[row(0.11)]).err().map(|error| error.to_string());
        assert!(said.is_some_and(|said| said.contains("guards redis: Redis round trips: 0.110 per message, at most 0.1")));
    }
}
