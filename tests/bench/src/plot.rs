//! Figures as pictures: SVG without a background, in colours that can be read on white and on black.

use std::fmt::Write as _;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::book::shown;
use crate::table::named;
use crate::{Report, Row, curve};

pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

pub(crate) const TEXT: RGBColor = RGBColor(125, 133, 144);
pub(crate) const OURS: RGBColor = RGBColor(47, 129, 247);
pub(crate) const RAW: RGBColor = RGBColor(140, 149, 159);
const OTHERS: RGBColor = RGBColor(201, 120, 30);
pub(crate) const WIDTH: u32 = 860;
/// Where bars begin, and how long the longest is; right of it is room for its number.
const LEFT: i32 = 290;
const LONGEST: f64 = 370.0;
const TOP: i32 = 44;
const STEP: i32 = 30;
const THICK: i32 = 20;
const PER_SECOND: &str = "messages/s";

/// One of several, with its number beside it.
struct Bar {
    label: String,
    value: f64,
    range: (f64, f64),
    of_raw: Option<f64>,
    colour: RGBColor,
}

/// What there is to draw of a report: names of files, and what goes into them.
///
/// # Errors
/// When a picture cannot be drawn.
pub fn pictures(report: &Report) -> anyhow::Result<Vec<(&'static str, String)>> {
    let mut pictures = Vec::new();
    let scenarios = scenarios(&report.rows);
    if !scenarios.is_empty() {
        pictures.push(("scenarios.svg", draw("All seven steps beside the least there is to do, messages/s", &scenarios)?));
    }
    let latency = latency(&report.rows);
    if !latency.is_empty() {
        pictures.push(("latency.svg", draw("From the send to the handler at two paces, ms", &latency)?));
    }
    if let Some(curve) = curve::picture(&report.rows)? {
        pictures.push(("curve.svg", curve));
    }
    let peers = peers(&report.rows);
    if !peers.is_empty() {
        pictures.push(("peers.svg", draw("The same work by others, messages/s", &peers)?));
    }
    Ok(pictures)
}

/// What each scenario's raw figure is of, and which figures stand beside it.
const BESIDE: [(&str, &str, &[&str]); 3] = [
    ("stream", "the broker alone", &["verified"]),
    ("unary", "a gRPC echo alone", &["verified", "at commit: verified"]),
    ("http", "the HTTP client and server alone", &["delivered"]),
];

/// Of each scenario that has both, its raw figure and what was done end to end.
fn scenarios(rows: &[Row]) -> Vec<Bar> {
    let find = |scenario: &str, metric: &str| {
        rows.iter().find(|row| row.scenario == scenario && row.metric == metric && row.unit == PER_SECOND)
    };
    let mut bars = Vec::new();
    for (scenario, alone, metrics) in BESIDE {
        let done: Vec<_> = metrics.iter().filter_map(|metric| Some((metric, find(scenario, metric)?))).collect();
        if let (Some(raw), false) = (find(scenario, "raw"), done.is_empty()) {
            bars.push(bar(format!("{scenario}: {alone}"), raw, RAW));
            bars.extend(done.into_iter().map(|(metric, row)| bar(format!("{scenario}: {metric}"), row, OURS)));
        }
    }
    bars
}

/// Of each pace and quantile, the delay of the broker alone and ours.
fn latency(rows: &[Row]) -> Vec<Bar> {
    let find = |metric: &str| rows.iter().find(|row| row.scenario == "latency" && row.metric == metric);
    let half = find("half load").map_or_else(String::new, |row| format!(" ({}/s)", thousands(row.median)));
    let mut bars = Vec::new();
    for (pace, shown) in [("500/s", "500/s".to_owned()), ("half load", format!("half load{half}"))] {
        for quantile in ["p50", "p99"] {
            if let (Some(raw), Some(ours)) = (find(&format!("raw {quantile} {pace}")), find(&format!("{quantile} {pace}"))) {
                bars.push(Bar { of_raw: None, ..bar(format!("{shown}, {quantile}: broker alone"), raw, RAW) });
                bars.push(bar(format!("{shown}, {quantile}"), ours, OURS));
            }
        }
    }
    bars
}

/// The fastest first.
fn peers(rows: &[Row]) -> Vec<Bar> {
    let mut rows: Vec<&Row> = rows.iter().filter(|row| row.scenario == "peers" && row.unit == PER_SECOND).collect();
    rows.sort_by(|one, other| other.median.total_cmp(&one.median));
    let colour = |metric: &str| match metric {
        "raw" => RAW,
        ours if ours.starts_with("countersign") => OURS,
        _ => OTHERS,
    };
    rows.into_iter().map(|row| bar(named(&row.metric).replace("**", ""), row, colour(&row.metric))).collect()
}

fn bar(label: String, row: &Row, colour: RGBColor) -> Bar {
    // What is compared with has nothing to say about itself.
    let of_raw = row.of_raw.filter(|_| row.metric != "raw");
    Bar { label, value: row.median, range: (row.min, row.max), of_raw, colour }
}

fn draw(title: &str, bars: &[Bar]) -> anyhow::Result<String> {
    let mut svg = String::new();
    let height = TOP + STEP * i32::try_from(bars.len())? + 8;
    let area = SVGBackend::with_string(&mut svg, (WIDTH, u32::try_from(height)?)).into_drawing_area();
    text(&area, title, (WIDTH.cast_signed() / 2, 18), 17, HPos::Center)?;
    let most = bars.iter().map(|bar| bar.range.1).fold(1.0, f64::max);
    for (place, bar) in (0..).zip(bars) {
        one(&area, bar, TOP + STEP * place, most)?;
    }
    area.present()?;
    drop(area);
    Ok(svg)
}

fn one(area: &Area<'_>, bar: &Bar, y: i32, most: f64) -> anyhow::Result<()> {
    #[allow(clippy::cast_possible_truncation, reason = "pixels")]
    let at = |value: f64| LEFT + (LONGEST * value / most).round() as i32;
    let middle = y + THICK / 2;
    text(area, &bar.label, (LEFT - 10, middle), 15, HPos::Right)?;
    area.draw(&Rectangle::new([(LEFT, y), (at(bar.value).max(LEFT + 1), y + THICK)], bar.colour.filled()))?;
    let (least, most) = (at(bar.range.0), at(bar.range.1));
    area.draw(&PathElement::new(vec![(least, middle), (most, middle)], TEXT.stroke_width(2)))?;
    let mut number = thousands(bar.value);
    if let Some(ratio) = bar.of_raw {
        let _ = write!(number, "  ({ratio:.2} of raw)");
    }
    text(area, &number, (most.max(at(bar.value)) + 8, middle), 15, HPos::Left)
}

pub(crate) fn text(area: &Area<'_>, words: &str, at: (i32, i32), height: u32, anchor: HPos) -> anyhow::Result<()> {
    let style = ("sans-serif", height).into_font().color(&TEXT).pos(Pos::new(anchor, VPos::Center));
    area.draw(&Text::new(words.to_owned(), at, style))?;
    Ok(())
}

/// With a comma between thousands, as it is read.
pub(crate) fn thousands(value: f64) -> String {
    let plain = shown(value);
    let whole = plain.len() - plain.find('.').map_or(0, |point| plain.len() - point);
    let mut text = String::new();
    for (place, digit) in plain.chars().enumerate() {
        if place > 0 && place < whole && (whole - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::{report, row};

    #[test]
    fn each_bar_has_its_number_and_only_what_was_measured_is_drawn() -> anyhow::Result<()> {
        let rows = vec![row("stream", "raw", 40_000.0, Some(1.0)), row("stream", "verified", 24_321.0, Some(0.61))];
        let drawn = pictures(&report(rows))?;
        assert_eq!(drawn.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["scenarios.svg"]);
        let svg = &drawn[0].1;
        assert!(svg.contains("24,321  (0.61 of raw)") && svg.contains("40,000\n"), "{svg}");
        Ok(())
    }

    #[test]
    fn peers_are_drawn_the_fastest_first() -> anyhow::Result<()> {
        let rows = [("celery", 500.0), ("countersign stream", 20_000.0), ("raw", 40_000.0)];
        let drawn = pictures(&report(rows.iter().map(|(name, value)| row("peers", name, *value, None)).collect()))?;
        let svg = &drawn[0].1;
        let places: Vec<_> = ["broker alone", "Countersign", "Celery"].iter().map(|name| svg.find(name)).collect();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?}");
        Ok(())
    }

    #[test]
    fn delays_stand_beside_the_brokers_at_each_pace() -> anyhow::Result<()> {
        let rows = [("half load", 9_000.0), ("raw p99 half load", 4.0), ("p99 half load", 6.0), ("p99 500/s", 5.0)];
        let drawn = pictures(&report(rows.iter().map(|(name, value)| row("latency", name, *value, Some(1.5))).collect()))?;
        let svg = &drawn[0].1;
        assert!(svg.contains("half load (9,000/s), p99: broker alone") && svg.contains("6.00  (1.50 of raw)"), "{svg}");
        assert!(!svg.contains("500/s"), "there is nothing to set it beside");
        Ok(())
    }

    #[test]
    fn thousands_are_told_apart() {
        for (value, wanted) in [(999.0, "999"), (1_000.0, "1,000"), (1_234_567.0, "1,234,567"), (1.5, "1.50"), (0.0, "0")] {
            assert_eq!(thousands(value), wanted);
        }
    }
}
