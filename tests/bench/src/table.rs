//! Figures as a table in Markdown, which documents show between two markers.

use std::fmt::Write as _;

use crate::book::shown;
use crate::peers::PEERS;
use crate::{Report, Row};

/// Where the table begins in a document, a line of its own.
pub const BEGIN: &str = "<!-- figures -->";
/// Where it ends.
pub const END: &str = "<!-- /figures -->";
/// The scenario whose rows have a table of their own.
const PEERS_SCENARIO: &str = "peers";
const RAW: &str = "raw";

/// The peers, fastest first, and then every other figure, with what they were taken on.
#[must_use]
pub fn table(report: &Report) -> String {
    let (peers, others): (Vec<&Row>, Vec<&Row>) = report.rows.iter().partition(|row| row.scenario == PEERS_SCENARIO);
    let mut text = String::new();
    let machine = &report.machine;
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "{}, {} × {}, {} MiB, Linux {}: `{}`. Median [range] of the rounds.",
        report.date, machine.processors, machine.processor, machine.memory_mib, machine.kernel, report.command
    );
    if !peers.is_empty() {
        text += &peers_table(peers);
    }
    if !others.is_empty() {
        text += "\n| scenario | figure | median | range | unit | of raw |\n|---|---|---:|---|---|---:|\n";
        for row in others {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} |",
                row.scenario,
                row.metric,
                shown(row.median),
                range(row),
                row.unit,
                ratio(row)
            );
        }
    }
    text
}

fn peers_table(mut rows: Vec<&Row>) -> String {
    rows.sort_by(|one, other| other.median.total_cmp(&one.median));
    let mut text = String::from(
        "\n| who | messages/s | range | of the raw limit | how it is set | what it does not do |\n|---|---:|---|---:|---|---|\n",
    );
    for row in rows {
        let (set, lacks) = described(&row.metric);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {set} | {lacks} |",
            named(&row.metric),
            shown(row.median),
            range(row),
            ratio(row)
        );
    }
    text
}

/// What a reader calls it.
pub(crate) fn named(metric: &str) -> &str {
    match metric {
        RAW => "the broker alone (raw limit)",
        "countersign stream" => "**Countersign**, batches",
        "countersign unary" => "**Countersign**, a call a message",
        "countersign unary at commit" => "**Countersign**, a call a message, answered at the commit",
        other => PEERS.iter().find(|peer| peer.name == other).map_or(other, |peer| peer.title),
    }
}

fn described(metric: &str) -> (&'static str, &'static str) {
    match metric {
        RAW => ("quorum queue, confirms, multiple-acks", "anything but publish, consume and ack"),
        "countersign stream" => ("four calls of 500 messages at a time; all seven steps, counted when verified", ""),
        "countersign unary" => ("64 callers of one message each; all seven steps, counted when verified", ""),
        "countersign unary at commit" => ("the same, `answer_when` committed: the callers do not wait for the broker", ""),
        other => PEERS.iter().find(|peer| peer.name == other).map_or(("", ""), |peer| (peer.set, peer.lacks)),
    }
}

fn range(row: &Row) -> String {
    format!("[{}, {}]", shown(row.min), shown(row.max))
}

fn ratio(row: &Row) -> String {
    row.of_raw.map_or_else(String::new, |ratio| format!("{ratio:.2}"))
}

/// What a document has between the two markers; none if it lacks one of them.
#[must_use]
pub fn between(document: &str) -> Option<&str> {
    let (_, rest) = document.split_once(BEGIN)?;
    let (inside, _) = rest.split_once(END)?;
    Some(inside.trim())
}

/// The document with the table between its markers; none if it lacks one of them.
#[must_use]
pub fn placed(document: &str, table: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", table.trim()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::machine::Machine;

    pub(crate) fn row(scenario: &str, metric: &str, median: f64, of_raw: Option<f64>) -> Row {
        let unit = "messages/s".into();
        let (min, max) = (median * 0.9, median * 1.1);
        Row { scenario: scenario.into(), metric: metric.into(), median, min, max, n: 3, unit, of_raw }
    }

    pub(crate) fn report(rows: Vec<Row>) -> Report {
        let machine = Machine { processor: "a processor".into(), processors: 2, memory_mib: 24_000, kernel: "6.1".into() };
        Report { date: "2026-11-26T16:00:00Z".into(), command: "tests/bench/run peers".into(), machine, rows }
    }

    #[test]
    fn the_fastest_comes_first_and_every_other_figure_has_its_line() {
        let rows = [("peers", "celery", 500.0), ("peers", "raw", 40_000.0), ("stream", "verified", 20_000.0)];
        let text =
            table(&report(rows.iter().map(|(scenario, metric, value)| row(scenario, metric, *value, Some(0.5))).collect()));
        let place = |words: &str| text.find(words).unwrap_or_else(|| panic!("{words}: {text}"));
        assert!(place("the broker alone (raw limit) | 40000 | [36000, 44000] | 0.50") < place("| Celery | 500 |"));
        assert!(place("| Celery | 500 |") < place("| stream | verified | 20000 |"));
        assert!(text.contains("2 × a processor") && text.contains("`tests/bench/run peers`"), "{text}");
    }

    #[test]
    fn a_document_is_told_by_its_markers() {
        let document = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        assert_eq!(between(&document), Some("old"));
        let placed = placed(&document, "| new |\n");
        assert_eq!(placed.as_deref().and_then(between), Some("| new |"));
        assert!(placed.is_some_and(|text| text.starts_with("before\n") && text.ends_with("\nafter\n")));
        assert_eq!(between("no markers"), None);
    }
}
