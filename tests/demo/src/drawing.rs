//! Panels as one SVG.

use std::ops::Range;
use std::path::Path;

use anyhow::anyhow;
use plotters::coord::Shift;
use plotters::prelude::*;

const COLUMNS: usize = 3;
const PANEL: (u32, u32) = (480, 230);
const FUNNEL_HEIGHT: u32 = 200;
/// Where it says, below the funnel, which panels are left out.
const SILENT_AT: i32 = 178;
const COLOURS: [RGBColor; 8] = [
    RGBColor(31, 96, 196),
    RGBColor(224, 110, 20),
    RGBColor(55, 135, 45),
    RGBColor(196, 22, 42),
    RGBColor(143, 59, 184),
    RGBColor(124, 84, 60),
    RGBColor(0, 150, 160),
    RGBColor(110, 110, 110),
];
/// Lines of one panel that are drawn; those with the greatest values.
const LINES_MAX: usize = 8;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// One line: its name, and values by time in seconds since the Unix epoch.
pub struct Line {
    pub name: String,
    pub values: Vec<(f64, f64)>,
}

/// Lines that share their axes.
pub struct Panel {
    pub title: String,
    /// Grafana's word for the unit.
    pub unit: String,
    pub lines: Vec<Line>,
}

/// Draws the funnel as bars and the panels below it; `begin` is where time begins, seconds since the Unix epoch.
///
/// # Errors
/// When the file cannot be written.
pub fn draw(file: &Path, begin: f64, funnel: &[(String, f64)], panels: &[Panel]) -> anyhow::Result<()> {
    let (told, silent): (Vec<&Panel>, Vec<&Panel>) = panels.iter().partition(|panel| !telling(panel).is_empty());
    let times = told.iter().flat_map(|panel| &panel.lines).filter_map(|line| line.values.last());
    let end = times.map(|(at, _)| *at).fold(begin + 1.0, f64::max);
    let (columns, rows) = (COLUMNS, told.len().div_ceil(COLUMNS));
    let size = (PANEL.0 * u32::try_from(columns)?, FUNNEL_HEIGHT + PANEL.1 * u32::try_from(rows)?);
    let root = SVGBackend::new(file, size).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    let (top, below) = root.split_vertically(FUNNEL_HEIGHT);
    bars(&top, funnel)?;
    if !silent.is_empty() {
        let titles: Vec<&str> = silent.iter().map(|panel| panel.title.as_str()).collect();
        let words = format!("Nothing to show: {}", titles.join(", "));
        top.draw(&Text::new(words, (20, SILENT_AT), ("sans-serif", 13))).map_err(failed)?;
    }
    for (panel, area) in told.iter().zip(below.split_evenly((rows, columns))) {
        chart(&area, begin..end, panel)?;
    }
    root.present().map_err(failed)
}

/// The stages as bars, each with its figure.
fn bars(area: &Area<'_>, funnel: &[(String, f64)]) -> anyhow::Result<()> {
    let area = area.titled("Stored → confirmed → handled → signed → verified", ("sans-serif", 18)).map_err(failed)?;
    let most = funnel.iter().map(|(_, value)| *value).fold(1.0, f64::max);
    let (width, _) = area.dim_in_pixel();
    let (left, room) = (120, f64::from(width) - 260.0);
    for (place, (name, value)) in (0_i32..).zip(funnel) {
        let y = 6 + place * 28;
        #[allow(clippy::cast_possible_truncation, reason = "pixels")]
        let right = left + (room * value / most).round() as i32;
        let colour = COLOURS[usize::try_from(place).unwrap_or_default() % COLOURS.len()];
        area.draw(&Rectangle::new([(left, y), (right, y + 20)], colour.mix(0.8).filled())).map_err(failed)?;
        area.draw(&Text::new(name.clone(), (20, y + 3), ("sans-serif", 15))).map_err(failed)?;
        area.draw(&Text::new(format!("{value:.0}"), (right + 8, y + 3), ("sans-serif", 15))).map_err(failed)?;
    }
    Ok(())
}

fn chart(area: &Area<'_>, time: Range<f64>, panel: &Panel) -> anyhow::Result<()> {
    let lines = telling(panel);
    let values = lines.iter().flat_map(|line| &line.values).map(|(_, value)| *value);
    let most = values.filter(|value| value.is_finite()).fold(0.0, f64::max) * 1.1;
    let begin = time.start;
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, ("sans-serif", 15))
        .margin(6)
        .x_label_area_size(20)
        .y_label_area_size(46)
        .build_cartesian_2d(0.0..time.end - begin, 0.0..most)
        .map_err(failed)?;
    let unit = match panel.unit.as_str() {
        "s" => " s",
        "cps" => "/s",
        _ => "",
    };
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(6)
        .y_labels(5)
        .x_label_formatter(&|at| format!("{at:.0} s"))
        .y_label_formatter(&|value| if most < 5.0 { format!("{value:.1}{unit}") } else { format!("{value:.0}{unit}") })
        .draw()
        .map_err(failed)?;
    for (line, colour) in lines.iter().zip(COLOURS) {
        let whole = line.values.split(|(_, value)| !value.is_finite()).filter(|part| !part.is_empty());
        for (number, part) in whole.enumerate() {
            let points = part.iter().map(|(at, value)| (at - begin, *value));
            let drawn = chart.draw_series(LineSeries::new(points, colour.stroke_width(2))).map_err(failed)?;
            if number == 0 {
                let sample = move |(x, y)| PathElement::new(vec![(x, y), (x + 12, y)], colour.stroke_width(2));
                drawn.label(&line.name).legend(sample);
            }
        }
    }
    if !lines.is_empty() {
        let labels = &mut chart.configure_series_labels();
        let labels = labels.background_style(WHITE.mix(0.7)).label_font(("sans-serif", 11)).legend_area_size(16);
        labels.position(SeriesLabelPosition::UpperRight).draw().map_err(failed)?;
    }
    Ok(())
}

/// The lines that say anything: those that leave 0, the highest first, and of those the deepest; if there is none, nothing happened here.
fn telling(panel: &Panel) -> Vec<&Line> {
    let finite =
        |line: &Line| line.values.iter().map(|(_, value)| *value).filter(|value| value.is_finite()).collect::<Vec<f64>>();
    let span = |line| {
        let values = finite(line);
        (values.iter().copied().fold(0.0, f64::max), values.iter().copied().fold(f64::INFINITY, f64::min))
    };
    let mut lines: Vec<(&Line, (f64, f64))> = panel.lines.iter().map(|line| (line, span(line))).collect();
    lines.retain(|(_, (most, _))| *most > 0.0);
    lines.sort_by(|(_, one), (_, other)| other.0.total_cmp(&one.0).then(one.1.total_cmp(&other.1)));
    lines.into_iter().take(LINES_MAX).map(|(line, _)| line).collect()
}

fn failed<E: std::fmt::Display>(error: E) -> anyhow::Error {
    anyhow!("{error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawing_has_the_names_and_figures_and_leaves_out_what_stays_at_zero() {
        let dir = tempfile::TempDir::new().unwrap();
        let file = dir.path().join("overview.svg");
        let line = |name: &str, values: &[f64]| Line {
            name: name.into(),
            values: values
                .iter()
                .enumerate()
                .map(|(at, value)| (1_000.0 + f64::from(u32::try_from(at).unwrap()), *value))
                .collect(),
        };
        let lines = vec![line("resent", &[0.0, f64::NAN, 4.0, 2.0]), line("never", &[0.0, 0.0])];
        let silent = Panel { title: "Acts".into(), unit: String::new(), lines: vec![line("none", &[0.0])] };
        let panels = [Panel { title: "Orders".into(), unit: "cps".into(), lines }, silent];
        draw(&file, 1_000.0, &[("stored".into(), 41.7)], &panels).unwrap();
        let svg = std::fs::read_to_string(&file).unwrap();
        for part in ["<svg", "Orders", "resent", "stored", "42", "Nothing to show: Acts"] {
            assert!(svg.contains(part), "{part} is missing: {svg}");
        }
        assert!(!svg.contains("never"), "{svg}");
    }
}
