//! The figures: noted round by round, summed up as median and range.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, Table};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;

/// One figure over its rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What was measured.
    pub scenario: String,
    /// Which figure of it.
    pub metric: String,
    /// Over the rounds.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
    /// How many rounds.
    pub n: usize,
    /// Of the three above.
    pub unit: String,
    /// The median of what each round was of the same round's raw figure; none where there is nothing to compare with.
    pub of_raw: Option<f64>,
}

/// A file of figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// When it was begun, UTC.
    pub date: String,
    /// What was typed.
    pub command: String,
    /// On what.
    pub machine: Machine,
    /// The figures.
    pub rows: Vec<Row>,
}

/// Values of one figure as they come.
#[derive(Debug)]
struct Series {
    scenario: &'static str,
    metric: String,
    unit: &'static str,
    values: Vec<f64>,
    of_raw: Vec<f64>,
}

/// All figures of a run.
#[derive(Debug, Default)]
pub struct Book(Vec<Series>);

impl Book {
    /// Notes one round's value, and prints it.
    pub fn note(&mut self, scenario: &'static str, metric: &str, unit: &'static str, value: f64, of_raw: Option<f64>) {
        let mut line = format!("   {metric}: {} {unit}", shown(value));
        if let Some(ratio) = of_raw {
            let _ = write!(line, ", {ratio:.2} of raw");
        }
        println!("{line}");
        let known = self.0.iter().position(|series| series.scenario == scenario && series.metric == metric);
        let place = known.unwrap_or_else(|| {
            self.0.push(Series { scenario, metric: metric.to_owned(), unit, values: Vec::new(), of_raw: Vec::new() });
            self.0.len() - 1
        });
        self.0[place].values.push(value);
        self.0[place].of_raw.extend(of_raw);
    }

    /// Median and range of each figure, in the order in which they came.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        self.0.iter().map(Series::row).collect()
    }

    pub(crate) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY).set_header(["scenario", "metric", "median", "min", "max", "n", "unit", "of raw"]);
        for Row { scenario, metric, median, min, max, n, unit, of_raw } in self.rows() {
            let ratio = of_raw.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
            table.add_row([scenario, metric, shown(median), shown(min), shown(max), n.to_string(), unit, ratio]);
        }
        for column in [2, 3, 4, 5, 7] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.to_string()
    }

    pub(crate) fn write(&self, file: &Path, begun: jiff::Timestamp) -> anyhow::Result<()> {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let report = Report {
            date: begun.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            command: format!("tests/bench/run {}", arguments.join(" ")),
            machine: Machine::this()?,
            rows: self.rows(),
        };
        let text = serde_json::to_string_pretty(&report)? + "\n";
        std::fs::write(file, text).with_context(|| format!("writing {}", file.display()))
    }
}

impl Series {
    fn row(&self) -> Row {
        let values = sorted(&self.values);
        let of_raw = (!self.of_raw.is_empty()).then(|| median(&sorted(&self.of_raw)));
        Row {
            scenario: self.scenario.to_owned(),
            metric: self.metric.clone(),
            median: median(&values),
            min: values.first().copied().unwrap_or_default(),
            max: values.last().copied().unwrap_or_default(),
            n: values.len(),
            unit: self.unit.to_owned(),
            of_raw,
        }
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// Of ascending values; of an even number the mean of the two in the middle, of none 0.
pub(crate) fn median(values: &[f64]) -> f64 {
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// Three digits, or all of a large number.
pub(crate) fn shown(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        large if large >= 100.0 => format!("{value:.0}"),
        middling if middling >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_become_median_range_and_the_median_of_ratios() {
        let mut book = Book::default();
        for (value, ratio) in [(30.0, 0.5), (10.0, 0.9), (20.0, 0.7)] {
            book.note("stream", "verified", "messages/s", value, Some(ratio));
        }
        book.note("stream", "round trips", "per message", 0.5, None);
        let rows = book.rows();
        let Row { median, min, max, n, of_raw, .. } = &rows[0];
        assert_eq!((*median, *min, *max, *n, *of_raw), (20.0, 10.0, 30.0, 3, Some(0.7)));
        assert_eq!((rows[1].n, rows[1].of_raw), (1, None));
        assert!(book.table().contains("0.70"), "{}", book.table());
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        let rows: [(&[f64], f64); 4] = [(&[], 0.0), (&[7.0], 7.0), (&[1.0, 2.0], 1.5), (&[1.0, 2.0, 9.0], 2.0)];
        for (values, wanted) in rows {
            assert!((median(values) - wanted).abs() < f64::EPSILON, "{values:?}");
        }
    }
}
