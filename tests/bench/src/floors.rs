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
    /// The median is at least this.
    AtLeast(f64),
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
    // A million in ten minutes.
    Floor { scenario: "outage", metric: "lost: verified", bound: Bound::AtLeast(1_667.0) },
    Floor { scenario: "growth", metric: "grown: verified", bound: Bound::Ratio(0.8) },
    Floor { scenario: "growth", metric: "grown: cpu PostgreSQL", bound: Bound::RatioAtMost(1.2) },
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
    let Row { median, unit, .. } = row;
    // A figure that has to be compared and was not is below any floor.
    let ratio = row.of_raw.unwrap_or(f64::NAN);
    let (holds, said) = match floor.bound {
        Bound::Ratio(least) => (ratio >= least, format!("{ratio:.2} of raw, at least {least:.2}")),
        Bound::RatioAtMost(most) => (ratio <= most, format!("{ratio:.2} of raw, at most {most:.2}")),
        Bound::AtLeast(least) => (*median >= least, format!("{median:.3} {unit}, at least {least}")),
        Bound::AtMost(most) => (*median <= most, format!("{median:.3} {unit}, at most {most}")),
    };
    (!holds).then(|| format!("{name}: {said}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(scenario: &str, metric: &str, median: f64, of_raw: Option<f64>) -> Row {
        let (scenario, metric) = (scenario.into(), metric.into());
        Row { scenario, metric, median, min: 1.0, max: 1.0, n: 1, unit: "per message".into(), of_raw }
    }

    #[test]
    fn a_figure_that_breaks_its_bound_is_named_and_others_are_not() {
        let ratio = |metric, ratio| row("stream", metric, 1.0, Some(ratio));
        let cpu = |ratio| row("growth", "grown: cpu PostgreSQL", 1.0, Some(ratio));
        let round_trips = |median| row("guards", "redis: Redis round trips", median, None);
        let lost = |median| row("outage", "lost: verified", median, None);
        let within = [ratio("verified", 0.6), ratio("accepted", 0.1), cpu(1.2), round_trips(0.1), lost(1_667.0)];
        assert!(hold(&within).is_ok());
        let broken = [
            (ratio("verified", 0.59), "stream verified: 0.59 of raw, at least 0.60"),
            (row("stream", "verified", 1.0, None), "stream verified: NaN of raw, at least 0.60"),
            (cpu(1.21), "growth grown: cpu PostgreSQL: 1.21 of raw, at most 1.20"),
            (round_trips(0.11), "guards redis: Redis round trips: 0.110 per message, at most 0.1"),
            (lost(1_000.0), "outage lost: verified: 1000.000 per message, at least 1667"),
        ];
        for (row, wanted) in broken {
            let said = hold(&[row]).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(said.contains(wanted), "{said}");
        }
    }
}
