//! What is shown of a run in which everything goes wrong once: real services, scraped by a real Prometheus, asked what the shipped dashboards ask.

mod exposed;
pub mod named;
mod regular;
mod rig;

use anyhow::{anyhow, ensure};
use countersign_flow::PATIENCE;
use countersign_launcher::{Dashboard, Prometheus, Query, Series, Shown, wait_until};

use rig::Rig;

/// A line of a dashboard: its file, the panel, what the series' name has in it.
type Seen = (&'static str, &'static str, &'static str);

/// Lines that must have been above 0.
const ABOVE_ZERO: [Seen; 26] = [
    ("overview", "Stored → confirmed → handled → signed → verified", "stored"),
    ("overview", "Stored → confirmed → handled → signed → verified", "confirmed"),
    ("overview", "Stored → confirmed → handled → signed → verified", "handled"),
    ("overview", "Stored → confirmed → handled → signed → verified", "signed"),
    ("overview", "Stored → confirmed → handled → signed → verified", "verified"),
    ("overview", "Resent", ""),
    ("overview", "Parked", ""),
    ("overview", "Dead letters waiting", ""),
    ("overview", "Messages a second", "verified"),
    ("overview", "From stored to signed", "99 %"),
    ("overview", "Verdicts of checks", "resend"),
    ("overview", "Verdicts of checks", "park"),
    ("overview", "Orders to send again", "resent"),
    ("overview", "Deliveries that are not done", "parked"),
    ("overview", "Parked, by reason", "rejected"),
    ("overview", "Not handled at once", "done_before"),
    ("overview", "Not handled at once", "rejected"),
    ("overview", "Refused sends", "no_subscription"),
    ("overview", "Acts of operators", "park done"),
    ("upstream", "Resends", "resent"),
    ("downstream", "Claims", "done"),
    ("downstream", "Claims could not be made", ""),
    ("callback", "Dead letters", "inventory.orders"),
    ("callback", "Left for a human", "rejected"),
    ("dependencies", "Messages in queues", "ready"),
    ("dependencies", "Connections and channels", "connections"),
];

/// Lines that must have been at 0 for a while.
const AT_ZERO: [Seen; 2] = [("overview", "Dependencies", "redis"), ("dependencies", "Dependencies, by process", "redis")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_is_answered_and_every_fault_is_seen() -> anyhow::Result<()> {
    let mut rig = Rig::start("dashboards").await?;
    exposed::from_the_start(&rig.prometheus).await?;
    rig.everything_goes_wrong_once().await?;
    let mut missing = Vec::new();
    for dashboard in Dashboard::all()? {
        let shown = Shown { instances: dashboard.instances(&rig.prometheus).await?, since: rig.since };
        for query in dashboard.queries() {
            if let Err(error) = answered(&rig.prometheus, &dashboard.name, &shown, &query).await {
                missing.push(format!("{}, {:?}: {error:#}", dashboard.name, query.panel));
            }
        }
    }
    ensure!(missing.is_empty(), "these show nothing:\n{}", missing.join("\n"));
    exposed::as_declared(&rig.prometheus).await?;
    rig.stop().await
}

/// Waits until a query is answered with figures, and with those that this run must have brought about.
async fn answered(prometheus: &Prometheus, dashboard: &str, shown: &Shown, query: &Query) -> anyhow::Result<()> {
    let seen = async || {
        let answer = shown.ask(prometheus, query).await?;
        let enough = has_figures(&answer) && shows_faults(dashboard, query, &answer);
        if enough { Ok(()) } else { Err(anyhow!("{} answers {}", shown.put_in(&query.expression), summary(query, &answer))) }
    };
    if seen().await.is_ok() {
        return Ok(());
    }
    // What is counted now and then, or scraped a moment later.
    let _ = wait_until("it to show what happened", PATIENCE / 2, async || seen().await.is_ok()).await;
    seen().await
}

/// Each series with the least and the greatest of its values.
fn summary(query: &Query, answer: &[Series]) -> String {
    let one = |series: &Series| {
        let values = series.values.iter().map(|(_, value)| *value);
        let (least, greatest) = (values.clone().fold(f64::INFINITY, f64::min), values.fold(f64::NEG_INFINITY, f64::max));
        format!("{}: {least} to {greatest}", query.name_of(series))
    };
    if answer.is_empty() { "nothing".into() } else { answer.iter().map(one).collect::<Vec<_>>().join(", ") }
}

fn has_figures(answer: &[Series]) -> bool {
    answer.iter().flat_map(|series| &series.values).any(|(_, value)| value.is_finite())
}

fn shows_faults(dashboard: &str, query: &Query, answer: &[Series]) -> bool {
    let any = |part: &str, wanted: fn(f64) -> bool| {
        let named = answer.iter().filter(|series| query.name_of(series).contains(part));
        named.flat_map(|series| &series.values).any(|(_, value)| wanted(*value))
    };
    let ours = |line: &&Seen| is_of(line, dashboard, query);
    ABOVE_ZERO.iter().filter(ours).all(|(_, _, part)| any(part, |value| value > 0.0))
        && AT_ZERO.iter().filter(ours).all(|(_, _, part)| any(part, |value| value == 0.0))
}

/// Whether a line is to be looked for in what this query answers: of a panel's queries in the one that can have it.
fn is_of((of, panel, part): &Seen, dashboard: &str, query: &Query) -> bool {
    *of == dashboard && *panel == query.panel && (query.legend.contains("{{") || query.legend.contains(part))
}

#[test]
fn every_line_that_must_be_seen_is_of_a_query() -> anyhow::Result<()> {
    for line in ABOVE_ZERO.iter().chain(&AT_ZERO) {
        let queries = Dashboard::read(line.0)?.queries();
        ensure!(queries.iter().any(|query| is_of(line, line.0, query)), "no query has {line:?}");
    }
    Ok(())
}
