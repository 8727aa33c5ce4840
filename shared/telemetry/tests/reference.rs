//! The shipped table of metrics is the one that the code makes.

#![allow(clippy::disallowed_methods, reason = "a test has no launch frame")]

use std::fmt::Write as _;

use countersign_telemetry::names::{Kind, METRICS, Metric, Service};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/prometheus/metrics.md");
/// Writes the file anew.
const WRITE: &str = "COUNTERSIGN_WRITE=1 cargo test -p countersign-telemetry --test reference";
const ALL: [Service; 3] = [Service::Upstream, Service::Downstream, Service::Callback];

#[test]
fn the_shipped_table_of_metrics_is_what_the_code_says() {
    let table = table();
    if std::env::var_os("COUNTERSIGN_WRITE").is_some() {
        std::fs::write(FILE, &table).unwrap();
    }
    let shipped = std::fs::read_to_string(FILE).unwrap_or_default();
    assert!(shipped == table, "deploy/prometheus/metrics.md is not what shared/telemetry/src/names.rs says: {WRITE}");
}

fn table() -> String {
    let mut text = format!(
        "# Metrics\n\n\
         Every service shows its metrics at `/metrics` of its HTTP address, in Prometheus' text format. Counters whose labels are known \
         are there from the start, at 0. No label is ever an id; ids stand in traces and logs.\n\n\
         Made from `shared/telemetry/src/names.rs`: change it there, then `{WRITE}`.\n"
    );
    let shared: Vec<&Metric> = METRICS.iter().filter(|metric| metric.services.len() > 1).collect();
    section(&mut text, "Of several services", &shared);
    for service in ALL {
        let own: Vec<&Metric> = METRICS.iter().filter(|metric| metric.services == [service]).collect();
        section(&mut text, &format!("Of {}", service.as_str()), &own);
    }
    text
}

fn section(text: &mut String, title: &str, metrics: &[&Metric]) {
    write!(text, "\n## {title}\n\n| metric | kind | service | labels | what it says |\n|---|---|---|---|---|\n").unwrap();
    for Metric { name, kind, services, labels, help } in metrics {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let services: Vec<&str> = services.iter().map(|service| service.as_str()).collect();
        let services = if services.len() == ALL.len() { "all".to_owned() } else { services.join(", ") };
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        writeln!(text, "| `{name}` | {kind} | {services} | {} | {help} |", labels.join(" ")).unwrap();
    }
}
