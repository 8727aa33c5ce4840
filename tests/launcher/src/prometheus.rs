//! A private Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail, ensure};
use reqwest::{Client, Url};
use serde::Deserialize;

use crate::port::free_port;
use crate::program::{Program, Running};
use crate::wait::wait_until;

/// On a busy machine.
const START: Duration = Duration::from_mins(1);
/// How long the targets may take to be scraped for the first time.
const UP: Duration = Duration::from_mins(1);
/// Bound of one question.
const ANSWER: Duration = Duration::from_secs(20);
/// Between two scrapes of a target.
const SCRAPE: Duration = Duration::from_secs(1);

/// What is scraped, and under which name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The label `job`.
    pub job: String,
    /// The whole address, such as `http://127.0.0.1:7111/metrics`.
    pub url: String,
}

/// One series of an answer: its labels, and values by time in seconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Label values by name; `__name__` is the metric, where there is one.
    pub labels: BTreeMap<String, String>,
    /// Times and values, in order; of an instant query there is one.
    pub values: Vec<(f64, f64)>,
}

/// A private Prometheus on a free port of 127.0.0.1 that scrapes every second. Dropping it kills it.
#[derive(Debug)]
pub struct Prometheus {
    running: Running,
    http: Client,
    url: String,
    targets: Vec<Target>,
}

impl Prometheus {
    /// Starts one whose configuration, log and data go below `dir`.
    ///
    /// # Errors
    /// When `prometheus` is missing or does not come up; the end of its log is quoted.
    pub async fn start(dir: &Path, targets: &[Target]) -> anyhow::Result<Self> {
        let path = crate::shared::find_program("prometheus", [], "prometheus")?;
        let dir = std::path::absolute(dir)?.join("prometheus");
        std::fs::create_dir_all(&dir)?;
        let configuration = dir.join("prometheus.yml");
        std::fs::write(&configuration, scrape_configuration(targets)?)?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let flag = |name: &str, value: &Path| format!("--{name}={}", value.display());
        let running = Program::new(path)
            .arg(flag("config.file", &configuration))
            .arg(flag("storage.tsdb.path", &dir.join("data")))
            .arg(format!("--web.listen-address={address}"))
            .log_to(dir.join("prometheus.log"))
            .spawn()?;
        let http = Client::builder().timeout(ANSWER).no_proxy().build()?;
        let this = Self { running, http, url: format!("http://{address}"), targets: targets.to_vec() };
        let ready = async || !this.running.is_alive() || this.get("-/ready", &[]).await.is_ok();
        wait_until("Prometheus to be ready", START, ready).await.with_context(|| this.running.log_tail())?;
        ensure!(this.running.is_alive(), "Prometheus has ended{}", this.running.log_tail());
        Ok(this)
    }

    /// Where it listens: `http://127.0.0.1:port`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Waits until every target has been scraped.
    ///
    /// # Errors
    /// When one is not in time; the error names those that are.
    pub async fn targets_up(&self) -> anyhow::Result<()> {
        let up = async || self.query("up == 1").await.is_ok_and(|series| series.len() == self.targets.len());
        let waited = wait_until("all targets to be scraped", UP, up).await;
        let known = self.query("up").await;
        waited.with_context(|| format!("wanted {:?}, found {known:?}", self.targets))
    }

    /// An instant query, now.
    ///
    /// # Errors
    /// When it is refused, with Prometheus' words, or not answered.
    pub async fn query(&self, expression: &str) -> anyhow::Result<Vec<Series>> {
        self.ask("api/v1/query", &[("query", expression.to_owned())]).await
    }

    /// A range query from `since` until now, a value each `step`.
    ///
    /// # Errors
    /// As [`Self::query`].
    pub async fn query_range(&self, expression: &str, since: SystemTime, step: Duration) -> anyhow::Result<Vec<Series>> {
        let parameters = [
            ("query", expression.to_owned()),
            ("start", seconds(since)?.to_string()),
            ("end", seconds(SystemTime::now())?.to_string()),
            ("step", step.as_secs_f64().to_string()),
        ];
        self.ask("api/v1/query_range", &parameters).await
    }

    async fn ask(&self, path: &str, parameters: &[(&str, String)]) -> anyhow::Result<Vec<Series>> {
        let answer: Answer = serde_json::from_str(&self.get(path, parameters).await?).context("reading Prometheus' answer")?;
        match answer {
            Answer { data: Some(Data::Vector { result } | Data::Matrix { result }), .. } => {
                result.into_iter().map(Sample::series).collect()
            }
            Answer { data: Some(Data::Scalar { result }), .. } => {
                Ok(vec![Series { labels: BTreeMap::new(), values: vec![number(&result)?] }])
            }
            Answer { error, .. } => bail!("{}", error.unwrap_or_else(|| "an answer without data".into())),
        }
    }

    async fn get(&self, path: &str, parameters: &[(&str, String)]) -> anyhow::Result<String> {
        let url = Url::parse_with_params(&format!("{}/{path}", self.url), parameters)?;
        let answer = self.http.get(url).send().await.context("Prometheus does not answer")?;
        // Of a refused query the body has the reason.
        let refused = answer.error_for_status_ref().err();
        let body = answer.text().await?;
        match refused {
            Some(_) if body.starts_with('{') => Ok(body),
            Some(error) => Err(error.into()),
            None => Ok(body),
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    data: Option<Data>,
    error: Option<String>,
}

#[derive(Deserialize)]
#[serde(tag = "resultType", rename_all = "lowercase")]
enum Data {
    Vector { result: Vec<Sample> },
    Matrix { result: Vec<Sample> },
    Scalar { result: (f64, String) },
}

#[derive(Deserialize)]
struct Sample {
    metric: BTreeMap<String, String>,
    #[serde(default)]
    value: Option<(f64, String)>,
    #[serde(default)]
    values: Vec<(f64, String)>,
}

impl Sample {
    fn series(self) -> anyhow::Result<Series> {
        let values = self.value.iter().chain(&self.values).map(number).collect::<anyhow::Result<_>>()?;
        Ok(Series { labels: self.metric, values })
    }
}

/// Values are texts: `NaN` and `+Inf` among them.
fn number((at, value): &(f64, String)) -> anyhow::Result<(f64, f64)> {
    Ok((*at, value.parse().with_context(|| format!("{value:?} is no number"))?))
}

fn seconds(time: SystemTime) -> anyhow::Result<f64> {
    Ok(time.duration_since(UNIX_EPOCH)?.as_secs_f64())
}

/// One job for each target: two addresses of one server differ in path and parameters.
fn scrape_configuration(targets: &[Target]) -> anyhow::Result<String> {
    let every = SCRAPE.as_secs();
    let mut text = format!("global:\n  scrape_interval: {every}s\n  scrape_timeout: {every}s\nscrape_configs:\n");
    for Target { job, url } in targets {
        let url = Url::parse(url).with_context(|| format!("the target {url:?}"))?;
        let address = format!("{}:{}", url.host_str().context("no host")?, url.port().context("no port")?);
        write!(text, "  - job_name: {job:?}\n    metrics_path: {:?}\n", url.path())?;
        write!(text, "    static_configs:\n      - targets: [{address:?}]\n")?;
        let mut parameters: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in url.query_pairs() {
            parameters.entry(name.into_owned()).or_default().push(value.into_owned());
        }
        if !parameters.is_empty() {
            text.push_str("    params:\n");
            for (name, values) in parameters {
                writeln!(text, "      {name:?}: {values:?}")?;
            }
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_target_is_a_job_with_its_path_and_parameters() {
        let targets = [
            Target { job: "upstream".into(), url: "http://127.0.0.1:1/metrics".into() },
            Target { job: "queues".into(), url: "http://127.0.0.1:2/metrics/detailed?family=a&family=b".into() },
        ];
        let wanted = "global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\nscrape_configs:\n\
                      \x20 - job_name: \"upstream\"\n    metrics_path: \"/metrics\"\n    static_configs:\n\
                      \x20     - targets: [\"127.0.0.1:1\"]\n\
                      \x20 - job_name: \"queues\"\n    metrics_path: \"/metrics/detailed\"\n    static_configs:\n\
                      \x20     - targets: [\"127.0.0.1:2\"]\n    params:\n      \"family\": [\"a\", \"b\"]\n";
        assert_eq!(scrape_configuration(&targets).unwrap(), wanted);
    }

    #[test]
    fn an_answer_is_read_whatever_its_kind() {
        let read = |text: &str| serde_json::from_str::<Answer>(text).unwrap();
        let vector = r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"a":"b"},"value":[1.5,"NaN"]}]}}"#;
        let Some(Data::Vector { mut result }) = read(vector).data else { panic!("no vector") };
        let series = result.remove(0).series().unwrap();
        assert_eq!(series.labels["a"], "b");
        assert!(series.values[0].1.is_nan());
        let refused = r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#;
        assert_eq!(read(refused).error.as_deref(), Some("parse error"));
    }
}
