//! The shipped dashboards, and what Grafana would ask Prometheus for them.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::prometheus::{Prometheus, Series};

/// Between two values on the screen.
const STEP: Duration = Duration::from_secs(2);
/// Grafana's least `$__rate_interval`, in scrapes.
const RATE_SCRAPES: u32 = 4;
/// Between two scrapes, see [`Prometheus`].
const SCRAPE: Duration = Duration::from_secs(1);

/// One file of `deploy/grafana/dashboards`.
#[derive(Clone, Debug)]
pub struct Dashboard {
    /// The file's name without its ending.
    pub name: String,
    /// What is in it.
    pub json: Value,
}

/// One query of a panel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// The panel's title.
    pub panel: String,
    /// What the panel calls the query's series, as a template.
    pub legend: String,
    /// `PromQL` with Grafana's variables in it.
    pub expression: String,
    /// For one value now, instead of one each step.
    pub instant: bool,
}

/// What Grafana puts in for its variables.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Values of `$instance`.
    pub instances: Vec<String>,
    /// The time shown is from here until now.
    pub since: SystemTime,
}

/// Where the dashboards are.
fn dashboards() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/grafana/dashboards")
}

impl Dashboard {
    /// Reads one.
    ///
    /// # Errors
    /// When it cannot be read, or is no JSON.
    pub fn read(name: &str) -> anyhow::Result<Self> {
        let file = dashboards().join(format!("{name}.json"));
        let text = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let json = serde_json::from_str(&text).with_context(|| format!("reading {}", file.display()))?;
        Ok(Self { name: name.to_owned(), json })
    }

    /// Reads all of them, by name.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn all() -> anyhow::Result<Vec<Self>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dashboards())? {
            let path = entry?.path();
            if path.extension().is_some_and(|ending| ending == "json") {
                names.push(path.file_stem().unwrap_or_default().to_string_lossy().into_owned());
            }
        }
        names.sort();
        names.iter().map(|name| Self::read(name)).collect()
    }

    /// The panels that show something, in order.
    pub fn panels(&self) -> impl Iterator<Item = &Value> {
        self.json["panels"].as_array().into_iter().flatten().filter(|panel| panel["type"] != "row")
    }

    /// Every query to Prometheus, in order.
    #[must_use]
    pub fn queries(&self) -> Vec<Query> {
        let of_panel = |panel: &Value| {
            let targets = panel["targets"].as_array().cloned().unwrap_or_default();
            let title = text(&panel["title"]);
            let asked = targets.into_iter().filter(|target| target["expr"].is_string());
            let query = move |target: Value| Query {
                panel: title.clone(),
                legend: text(&target["legendFormat"]),
                expression: text(&target["expr"]),
                instant: target["instant"] == true,
            };
            asked.map(query).collect::<Vec<_>>()
        };
        self.panels().flat_map(of_panel).collect()
    }

    /// What its variable `instance` offers now.
    ///
    /// # Errors
    /// When the variable is not there or is not a `label_values(metric, label)`, or Prometheus refuses.
    pub async fn instances(&self, prometheus: &Prometheus) -> anyhow::Result<Vec<String>> {
        let variables = self.json["templating"]["list"].as_array().context("no variables")?;
        let instance = variables.iter().find(|variable| variable["name"] == "instance").context("no variable instance")?;
        let asked = text(&instance["query"]["query"]);
        let parts = asked.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')')?.split_once(", "));
        let (metric, label) = parts.with_context(|| format!("{asked:?} is not label_values(metric, label)"))?;
        let found = prometheus.query(&format!("group by ({label}) ({metric})")).await?;
        let mut values: Vec<String> = found.into_iter().filter_map(|mut series| series.labels.remove(label)).collect();
        values.sort();
        ensure!(!values.is_empty(), "no instance has {metric}");
        Ok(values)
    }
}

impl Shown {
    /// The expression as Grafana sends it.
    #[must_use]
    pub fn put_in(&self, expression: &str) -> String {
        let range = self.since.elapsed().unwrap_or_default().as_secs().max(1);
        let rate = (SCRAPE * RATE_SCRAPES).max(STEP + SCRAPE).as_secs();
        let escaped: Vec<String> = self.instances.iter().map(|instance| instance.replace('.', r"\\.")).collect();
        let instance = if let [one] = escaped.as_slice() { one.clone() } else { format!("({})", escaped.join("|")) };
        expression
            .replace("$__rate_interval", &format!("{rate}s"))
            .replace("$__range", &format!("{range}s"))
            .replace("$instance", &instance)
    }

    /// Asks as Grafana would.
    ///
    /// # Errors
    /// When Prometheus refuses, with the expression.
    pub async fn ask(&self, prometheus: &Prometheus, query: &Query) -> anyhow::Result<Vec<Series>> {
        let expression = self.put_in(&query.expression);
        let answer = if query.instant {
            prometheus.query(&expression).await
        } else {
            prometheus.query_range(&expression, self.since, STEP).await
        };
        answer.with_context(|| expression)
    }
}

impl Query {
    /// What the panel calls a series of this query.
    #[must_use]
    pub fn name_of(&self, series: &Series) -> String {
        let mut name = self.legend.clone();
        for (label, value) in &series.labels {
            name = name.replace(&format!("{{{{{label}}}}}"), value);
        }
        name
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn variables_are_put_in_as_grafana_does() {
        let shown = Shown { instances: vec!["127.0.0.1:1".into(), "127.0.0.1:2".into()], since: SystemTime::now() };
        let sent = shown.put_in(r#"sum(rate(a_total{instance=~"$instance"}[$__rate_interval])) / increase(b[$__range])"#);
        let wanted = r#"sum(rate(a_total{instance=~"(127\\.0\\.0\\.1:1|127\\.0\\.0\\.1:2)"}[4s])) / increase(b[1s])"#;
        assert_eq!(sent, wanted);
    }

    #[test]
    fn a_series_is_called_by_its_labels() {
        let query =
            Query { panel: String::new(), legend: "{{kind}}: {{outcome}}".into(), expression: String::new(), instant: false };
        let labels = [("kind", "check"), ("outcome", "nacked")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let series = Series { labels: BTreeMap::from(labels), values: Vec::new() };
        assert_eq!(query.name_of(&series), "check: nacked");
    }
}
