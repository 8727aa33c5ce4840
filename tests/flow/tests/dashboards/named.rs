//! Which of our metrics and labels an expression names.

use countersign_telemetry::names::{Kind, METRICS, Metric};

/// What a histogram's series are called.
const PARTS: [&str; 3] = ["_bucket", "_sum", "_count"];
/// Labels that every series has or may have, and those of histograms.
const ADDED: [&str; 4] = ["instance", "job", "le", "namespace"];

/// The declaration behind the name of a series.
pub fn declared(series: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| {
        let part = series.strip_prefix(metric.name);
        if metric.kind == Kind::Histogram { part.is_some_and(|part| PARTS.contains(&part)) } else { part == Some("") }
    })
}

/// What is wrong with the names in an expression: metrics of ours that do not exist, and labels that they do not have.
pub fn complaints(expression: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut labels = Vec::from(ADDED);
    for (at, _) in expression.match_indices("countersign_") {
        let name = word(&expression[at..]);
        let Some(metric) = declared(name) else {
            wrong.push(format!("there is no metric {name}"));
            continue;
        };
        labels.extend(metric.labels);
        let selected =
            expression[at + name.len()..].strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(inner, _)| inner);
        for label in matched(selected) {
            if !ADDED.contains(&label) && !metric.labels.contains(&label) {
                wrong.push(format!("{name} has no label {label}"));
            }
        }
    }
    if expression.contains("countersign_") {
        wrong.extend(
            grouped(expression).filter(|label| !labels.contains(label)).map(|label| format!("nothing here has a label {label}")),
        );
    }
    wrong
}

/// The longest name at the beginning.
fn word(text: &str) -> &str {
    let end = text.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    &text[..end.unwrap_or(text.len())]
}

/// Labels of the matchers between braces; no value has a comma within.
fn matched(selected: &str) -> impl Iterator<Item = &str> {
    selected.split(',').map(|matcher| word(matcher.trim())).filter(|label| !label.is_empty())
}

/// Labels in `by (…)`.
fn grouped(expression: &str) -> impl Iterator<Item = &str> {
    let groups = expression.split("by (").skip(1).filter_map(|rest| rest.split_once(')'));
    groups.flat_map(|(labels, _)| labels.split(',').map(str::trim))
}

#[test]
fn what_does_not_exist_is_named() {
    let rows = [
        (r#"sum by (verdict) (rate(countersign_checks_total{instance=~"a",verdict!="park"}[5m]))"#, Vec::new()),
        ("histogram_quantile(0.5, sum by (le) (rate(countersign_delivery_duration_seconds_bucket[5m])))", Vec::new()),
        ("sum(rabbitmq_connections) by (node)", Vec::new()),
        ("countersign_check_total", vec!["there is no metric countersign_check_total"]),
        ("countersign_delivery_duration_seconds", vec!["there is no metric countersign_delivery_duration_seconds"]),
        (r#"countersign_checks_total{outcome="park"}"#, vec!["countersign_checks_total has no label outcome"]),
        ("sum by (state) (countersign_checks_total)", vec!["nothing here has a label state"]),
    ];
    for (expression, wanted) in rows {
        assert_eq!(complaints(expression), wanted, "{expression}");
    }
}
