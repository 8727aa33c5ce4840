//! What the services expose, against the list of all metrics.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::ensure;
use countersign_launcher::{Prometheus, Series};
use countersign_telemetry::names::{self, Kind, METRICS, Metric};

use super::named::declared;

/// Metrics that are there only when there is something to tell, and why this run has nothing.
const NOT_HERE: [(&str, &str); 2] =
    [(names::TASK_PANICS_TOTAL, "no task panics"), (names::TLS_CERTIFICATE_ENDS_TIMESTAMP_SECONDS, "nothing speaks TLS")];

/// Every counter is there before anything has happened, with each service that counts by it: else the first event would not be seen.
pub async fn from_the_start(prometheus: &Prometheus) -> anyhow::Result<()> {
    let found = series(prometheus).await?;
    let wanted = METRICS.iter().filter(|metric| metric.kind == Kind::Counter && !is_excused(metric.name));
    ensure_exposed(wanted, &found, "from the start")
}

/// By now every metric is there, with each of its services; and nothing is there that is not declared so.
pub async fn as_declared(prometheus: &Prometheus) -> anyhow::Result<()> {
    let found = series(prometheus).await?;
    ensure_exposed(METRICS.iter().filter(|metric| !is_excused(metric.name)), &found, "although everything has happened")?;
    let mut strangers = BTreeSet::new();
    for Series { labels, .. } in &found {
        let (name, job) = (labels["__name__"].as_str(), labels["job"].as_str());
        let Some(metric) = declared(name) else {
            strangers.insert(format!("{name} of {job} is not in METRICS"));
            continue;
        };
        if !metric.services.iter().any(|service| service.as_str() == job) {
            strangers.insert(format!("{name} is exposed by {job}, and METRICS does not say so"));
        }
        let own: BTreeSet<&str> = labels.keys().map(String::as_str).filter(|label| !ADDED.contains(label)).collect();
        // A label whose value is empty is not there.
        if !own.iter().all(|label| metric.labels.contains(label)) {
            strangers.insert(format!("{name} has the labels {own:?}, and METRICS says {:?}", metric.labels));
        }
    }
    ensure!(strangers.is_empty(), "{}", Vec::from_iter(strangers).join("\n"));
    Ok(())
}

/// Labels that Prometheus and histograms add.
const ADDED: [&str; 4] = ["__name__", "instance", "job", "le"];

fn is_excused(name: &str) -> bool {
    NOT_HERE.iter().any(|(excused, _)| *excused == name)
}

/// All of this run: a service that was killed may not have come to everything again.
async fn series(prometheus: &Prometheus) -> anyhow::Result<Vec<Series>> {
    prometheus.query("last_over_time({__name__=~\"countersign_.+\"}[1h])").await
}

fn ensure_exposed<'a>(wanted: impl Iterator<Item = &'a Metric>, found: &[Series], when: &str) -> anyhow::Result<()> {
    let mut jobs: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for Series { labels, .. } in found {
        if let Some(metric) = declared(&labels["__name__"]) {
            jobs.entry(metric.name).or_default().insert(&labels["job"]);
        }
    }
    let mut missing = Vec::new();
    for metric in wanted {
        for service in metric.services {
            if !jobs.get(metric.name).is_some_and(|jobs| jobs.contains(service.as_str())) {
                missing.push(format!("{} of {}", metric.name, service.as_str()));
            }
        }
    }
    ensure!(missing.is_empty(), "not exposed, {when}: {}", missing.join(", "));
    Ok(())
}
