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
}

const FLOORS: &[Floor] = &[
    Floor { scenario: "stream", metric: "verified", bound: Bound::Ratio(0.6) },
    Floor { scenario: "unary", metric: "verified", bound: Bound::Ratio(0.35) },
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
}
