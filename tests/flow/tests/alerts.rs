//! The alerts: Prometheus accepts them, each has its tests and its runbook, and each asks for metrics that exist.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use countersign_launcher::{binary, promtool};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::process::Command;

use crate::dashboards::named::complaints;

#[derive(Deserialize)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Alert>,
}

#[derive(Deserialize)]
struct Alert {
    #[serde(rename = "alert")]
    name: String,
    expr: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Tests {
    tests: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    alert_rule_test: Vec<Expected>,
}

#[derive(Deserialize)]
struct Expected {
    alertname: String,
    exp_alerts: Vec<BTreeMap<String, BTreeMap<String, String>>>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/prometheus")
}

fn read(name: &str) -> anyhow::Result<String> {
    std::fs::read_to_string(folder().join(name)).with_context(|| format!("reading {name}"))
}

fn parse<T: DeserializeOwned>(name: &str) -> anyhow::Result<T> {
    serde_saphyr::from_str(&read(name)?).with_context(|| format!("parsing {name}"))
}

fn alerts() -> anyhow::Result<Vec<Alert>> {
    let rules: Rules = parse("rules/countersign.yml")?;
    Ok(rules.groups.into_iter().flat_map(|group| group.rules).collect())
}

/// The sections of the runbooks: heading and text.
fn sections(runbooks: &str) -> Vec<(&str, &str)> {
    runbooks.split("\n## ").skip(1).filter_map(|section| section.split_once('\n')).collect()
}

#[tokio::test]
async fn prometheus_accepts_the_rules_and_their_unit_tests_pass() -> anyhow::Result<()> {
    let rules = folder().join("rules");
    promtool(&rules, &["check", "rules", "countersign.yml"]).await?;
    let said = promtool(&rules, &["test", "rules", "countersign.test.yml"]).await?;
    ensure!(said.contains("SUCCESS"), "{said}");
    Ok(())
}

#[test]
fn every_alert_is_tested_as_it_fires_and_as_it_must_not() -> anyhow::Result<()> {
    let tests: Tests = parse("rules/countersign.test.yml")?;
    let stays_quiet = |case: &Case| case.alert_rule_test.iter().all(|one| one.exp_alerts.is_empty());
    for Alert { name: alert, .. } in alerts()? {
        let mine = || tests.tests.iter().filter(|case| case.alert_rule_test.iter().all(|one| one.alertname == alert));
        ensure!(mine().any(|case| !stays_quiet(case)), "no test in which {alert} fires");
        ensure!(mine().any(stays_quiet), "no test in which {alert} must not fire");
    }
    Ok(())
}

#[test]
fn every_alert_has_a_severity_words_and_a_runbook_and_every_runbook_an_alert() -> anyhow::Result<()> {
    let (runbooks, alerts) = (read("runbooks.md")?, alerts()?);
    let sections = sections(&runbooks);
    for Alert { name: alert, labels, annotations, .. } in &alerts {
        let severity = labels.get("severity").with_context(|| format!("{alert} has no severity"))?;
        ensure!(["page", "ticket", "info"].contains(&severity.as_str()), "{alert}: {severity}");
        for words in ["summary", "description"] {
            ensure!(annotations.get(words).is_some_and(|words| words.ends_with('.')), "{alert} has no {words}");
        }
        let anchor = format!("deploy/prometheus/runbooks.md#{}", alert.to_lowercase());
        ensure!(annotations.get("runbook_url") == Some(&anchor), "the runbook_url of {alert} is not {anchor}");
        let (_, text) =
            sections.iter().find(|(heading, _)| heading == alert).with_context(|| format!("no runbook of {alert}"))?;
        ensure!(text.contains(&format!("**Means** ({severity})")), "the runbook of {alert} does not call it {severity}");
        for part in ["**Users notice", "**Look", "**Over when**"] {
            ensure!(text.contains(part), "the runbook of {alert} has no part {part}");
        }
    }
    let known: BTreeSet<&str> = alerts.iter().map(|alert| alert.name.as_str()).collect();
    let stray: Vec<_> = sections.iter().filter(|(heading, _)| !known.contains(heading)).map(|(heading, _)| heading).collect();
    ensure!(stray.is_empty(), "runbooks without an alert: {stray:?}");
    ensure!(known.len() == alerts.len(), "an alert is there twice");
    Ok(())
}

#[test]
fn every_metric_and_label_that_an_alert_asks_for_exists() -> anyhow::Result<()> {
    let alerts = alerts()?;
    ensure!(alerts.len() > 30, "only {} alerts were read", alerts.len());
    let wrong: Vec<String> = alerts
        .iter()
        .flat_map(|Alert { name: alert, expr, .. }| complaints(expr).into_iter().map(move |wrong| format!("{alert}: {wrong}")))
        .collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[tokio::test]
async fn every_command_in_the_runbooks_exists_with_its_options() -> anyhow::Result<()> {
    let runbooks = read("runbooks.md")?;
    let spans = runbooks.split('`').filter(|span| span.starts_with("countersign ") && !span.contains('\n'));
    let lines = runbooks.lines().filter(|line| line.starts_with("countersign "));
    let commands: BTreeSet<&str> = spans.chain(lines).map(|line| line.split('#').next().unwrap_or(line).trim()).collect();
    ensure!(commands.len() > 20, "the runbooks name only {commands:?}");
    for line in commands {
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        let is_verb = |word: &&&str| word.chars().all(|letter| letter.is_ascii_lowercase());
        let nested = ["dead", "outbox", "topology"].contains(words.first().context("no verb")?);
        let verbs = words.iter().take_while(is_verb).take(if nested { 2 } else { 1 });
        let help = Command::new(binary("countersign")?).args(verbs).arg("--help").kill_on_drop(true).output().await?;
        ensure!(help.status.success(), "`{line}` is no command: {}", String::from_utf8_lossy(&help.stderr));
        let help = String::from_utf8_lossy(&help.stdout).into_owned();
        for option in words.iter().filter(|word| word.starts_with("--")) {
            ensure!(help.split_whitespace().any(|word| word == *option), "`{line}`: there is no {option}");
        }
    }
    Ok(())
}
