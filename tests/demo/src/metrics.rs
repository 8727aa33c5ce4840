//! With `--metrics`: the run as the overview dashboard shows it, scraped by a real Prometheus.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use countersign_launcher::{Dashboard, Prometheus, Shown, Target, Which};

use crate::drawing::{self, Line, Panel};
use crate::stage::Stage;

/// What is drawn.
const DASHBOARD: &str = "overview";
/// How long the last checks are waited for at most, and until they are scraped.
const CHECKS_MAX: Duration = Duration::from_secs(10);
const LAST_SCRAPE: Duration = Duration::from_secs(4);
/// The panel that is drawn as bars, at the top.
const FUNNEL: &str = "Stored → confirmed → handled → signed → verified";

/// A Prometheus that scrapes the services.
pub struct Scraped {
    prometheus: Prometheus,
    since: SystemTime,
}

impl Scraped {
    /// Starts it, and waits until it has seen all of them.
    ///
    /// # Errors
    /// When it is missing or does not come up.
    pub async fn start(stage: &Stage, without_callback: bool) -> anyhow::Result<Self> {
        let there = Which::ALL.into_iter().filter(|which| *which != Which::Callback || !without_callback);
        let target = |which: Which| Target { job: which.name().into(), url: format!("{}/metrics", stage.system.http_url(which)) };
        let targets: Vec<Target> = there.map(target).collect();
        let prometheus = Prometheus::start(stage.dir(), &targets).await.context("starting a private Prometheus")?;
        let since = SystemTime::now();
        prometheus.targets_up().await?;
        Ok(Self { prometheus, since })
    }

    /// When the checks of the last messages have come due, asks what the dashboard asks, and draws the answers into `file`.
    ///
    /// # Errors
    /// When Prometheus refuses, or the file cannot be written.
    pub async fn draw(&self, file: &Path, check_delay: Duration) -> anyhow::Result<()> {
        // The last checks come due, and are scraped.
        tokio::time::sleep(check_delay.min(CHECKS_MAX) + LAST_SCRAPE).await;
        let dashboard = Dashboard::read(DASHBOARD)?;
        let shown = Shown { instances: dashboard.instances(&self.prometheus).await?, since: self.since };
        let (mut funnel, mut panels) = (Vec::new(), Vec::<Panel>::new());
        for query in dashboard.queries() {
            let kind = dashboard.panels().find(|panel| panel["title"] == query.panel.as_str());
            let kind = kind.context("a query without a panel")?;
            let drawn = ["timeseries", "state-timeline"].iter().any(|drawn| kind["type"] == **drawn);
            if query.panel != FUNNEL && !drawn {
                continue;
            }
            let answer = shown.ask(&self.prometheus, &query).await?;
            if query.panel == FUNNEL {
                let value = answer.iter().flat_map(|series| &series.values).map(|(_, value)| *value).next_back();
                funnel.push((query.legend.clone(), value.unwrap_or_default()));
                continue;
            }
            let lines = answer.iter().map(|series| Line { name: query.name_of(series), values: series.values.clone() });
            let unit = kind["fieldConfig"]["defaults"]["unit"].as_str().unwrap_or_default();
            match panels.last_mut().filter(|last| last.title == query.panel) {
                Some(last) => last.lines.extend(lines),
                None => panels.push(Panel { title: query.panel.clone(), unit: unit.to_owned(), lines: lines.collect() }),
            }
        }
        let begin = self.since.duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64();
        drawing::draw(file, begin, &funnel, &panels).with_context(|| format!("drawing {}", file.display()))
    }
}
