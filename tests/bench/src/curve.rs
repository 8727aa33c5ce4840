//! Delay by throughput as lines: what is sent in a second to the right, how long it takes to the handler upwards, each step ten times the last.

use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use crate::Row;
use crate::plot::{Area, OURS, RAW, TEXT, WIDTH, text, thousands};

const HEIGHT: u32 = 420;
/// The field in which lines are drawn.
const LEFT: i32 = 80;
const RIGHT: i32 = 640;
const TOP: i32 = 50;
const BOTTOM: i32 = 360;
/// Between two labels.
const LABEL: i32 = 16;
/// The least delay that is shown, ms.
const LEAST: f64 = 0.1;
/// Whose lines, by which figures, and how thick.
const LINES: [(&str, &str, RGBColor, u32); 4] = [
    ("p99", "p99", OURS, 1),
    ("p50", "p50", OURS, 3),
    ("broker alone, p99", "raw p99", RAW, 1),
    ("broker alone, p50", "raw p50", RAW, 3),
];

/// One line: messages a second and milliseconds, ascending.
struct Line {
    label: &'static str,
    colour: RGBColor,
    thick: u32,
    points: Vec<(f64, f64)>,
}

/// The delays of every pace that was held; none if there are fewer than two.
pub(crate) fn picture(rows: &[Row]) -> anyhow::Result<Option<String>> {
    let lines: Vec<Line> = LINES
        .iter()
        .map(|(label, figure, colour, thick)| Line { label, colour: *colour, thick: *thick, points: points(rows, figure) })
        .collect();
    if lines.iter().any(|line| line.points.len() < 2) {
        return Ok(None);
    }
    draw("Delay from the send to the handler by throughput, ms", &lines).map(Some)
}

fn points(rows: &[Row], figure: &str) -> Vec<(f64, f64)> {
    let rows = || rows.iter().filter(|row| row.scenario == "latency");
    let delay = |pace: &str| rows().find(|row| row.metric == format!("{figure} {pace}")).map(|row| row.median);
    let mut points: Vec<_> = rows().filter_map(|row| Some((row.median, delay(row.metric.strip_prefix("pace ")?)?))).collect();
    points.sort_by(|one, other| one.0.total_cmp(&other.0));
    points
}

fn draw(title: &str, lines: &[Line]) -> anyhow::Result<String> {
    let all = || lines.iter().flat_map(|line| &line.points);
    let fastest = all().map(|point| point.0).fold(1.0, f64::max);
    let decades = (all().map(|point| point.1).fold(1.0, f64::max) / LEAST).log10().ceil().max(1.0);
    #[allow(clippy::cast_possible_truncation, reason = "pixels")]
    let place = |(pace, delay): (f64, f64)| {
        let right = f64::from(RIGHT - LEFT) * pace / fastest;
        let up = f64::from(BOTTOM - TOP) * (delay.max(LEAST) / LEAST).log10() / decades;
        (LEFT + right.round() as i32, BOTTOM - up.round() as i32)
    };
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
    text(&area, title, (WIDTH.cast_signed() / 2, 18), 17, HPos::Center)?;
    let mut delay = LEAST;
    while delay <= LEAST * 10_f64.powf(decades) * 1.001 {
        let (_, y) = place((0.0, delay));
        area.draw(&PathElement::new(vec![(LEFT, y), (RIGHT, y)], TEXT.mix(0.3).stroke_width(1)))?;
        text(&area, &format!("{delay}"), (LEFT - 10, y), 14, HPos::Right)?;
        delay *= 10.0;
    }
    for (pace, _) in &lines[0].points {
        let (x, _) = place((*pace, LEAST));
        area.draw(&PathElement::new(vec![(x, BOTTOM), (x, BOTTOM + 5)], TEXT.stroke_width(1)))?;
        text(&area, &format!("{}/s", thousands(pace.round())), (x, BOTTOM + 18), 14, HPos::Center)?;
    }
    // The uppermost line comes first: labels of neighbours keep a line's height between them.
    let mut free = TOP;
    for line in lines {
        let places: Vec<_> = line.points.iter().map(|point| place(*point)).collect();
        let label = places.last().map_or(free, |end| end.1.max(free));
        one(&area, line, places, label)?;
        free = label + LABEL;
    }
    area.present()?;
    drop(area);
    Ok(svg)
}

fn one(area: &Area<'_>, line: &Line, places: Vec<(i32, i32)>, label: i32) -> anyhow::Result<()> {
    for place in &places {
        area.draw(&Circle::new(*place, 3, line.colour.filled()))?;
    }
    area.draw(&PathElement::new(places, line.colour.stroke_width(line.thick)))?;
    let last = line.points.last().map_or(0.0, |point| point.1);
    text(area, &format!("{}: {} ms", line.label, thousands(last)), (RIGHT + 10, label), 14, HPos::Left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::{report, row};

    #[test]
    fn each_line_says_where_it_ends_and_one_pace_is_no_line() -> anyhow::Result<()> {
        let of = |pace: &str, per_second: f64, delay: f64| {
            let figures = [("pace", per_second), ("p50", delay), ("p99", delay * 2.0), ("raw p50", 1.0), ("raw p99", 2.0)];
            figures.map(|(figure, value)| row("latency", &format!("{figure} {pace}"), value, Some(1.0)))
        };
        assert!(picture(&report(of("500/s", 500.0, 3.0).to_vec()).rows)?.is_none());
        let rows = [of("half load", 4_000.0, 8.0), of("500/s", 500.0, 3.0)].concat();
        let svg = picture(&report(rows).rows)?.unwrap_or_default();
        for words in ["p50: 8.00 ms", "p99: 16.00 ms", "broker alone, p50: 1.00 ms", "4,000/s", "500/s"] {
            assert!(svg.contains(words), "{words}: {svg}");
        }
        Ok(())
    }
}
