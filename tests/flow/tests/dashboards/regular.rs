//! The dashboards as files: whole, regular, and naming only what there is.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use countersign_launcher::Dashboard;
use serde_json::Value;

use super::named::complaints;

const NAMES: [&str; 5] = ["callback", "dependencies", "downstream", "overview", "upstream"];
const DATASOURCES: [&str; 2] = ["${datasource}", "${traces}"];
/// Where the names of spans' attributes stand.
const ATTRIBUTES: &str = include_str!("../../../../shared/telemetry/src/names.rs");
/// Columns of Grafana's grid.
const COLUMNS: u64 = 24;

#[test]
fn dashboards_are_whole_and_regular() -> anyhow::Result<()> {
    let all = Dashboard::all()?;
    ensure!(all.iter().map(|dashboard| dashboard.name.as_str()).eq(NAMES), "other dashboards than {NAMES:?}");
    for dashboard in &all {
        let json = &dashboard.json;
        let name = &dashboard.name;
        ensure!(json["uid"] == format!("countersign-{name}"), "the uid of {name}");
        ensure!(json["schemaVersion"].as_u64() >= Some(39), "{name} is of an old Grafana");
        for key in ["title", "description", "refresh"] {
            ensure!(json[key].as_str().is_some_and(|text| !text.is_empty()), "{name} has no {key}");
        }
        ensure!(json["time"]["from"].is_string() && json["tags"][0] == "countersign", "{name}: its time range or tag");
        let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
        for panel in dashboard.panels() {
            whole(panel).with_context(|| format!("{name}: {}", panel["title"]))?;
            ensure!(ids.insert(panel["id"].as_u64()), "{name}: {} has the id of another", panel["title"]);
            let at = |key: &str| panel["gridPos"][key].as_u64().unwrap_or_default();
            ensure!(at("x") + at("w") <= COLUMNS, "{name}: {} stands out", panel["title"]);
            for place in (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y))) {
                ensure!(taken.insert(place), "{name}: {} lies over another", panel["title"]);
            }
        }
    }
    Ok(())
}

/// A panel says what it shows, in which unit, from which source.
fn whole(panel: &Value) -> anyhow::Result<()> {
    let said = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
    ensure!(said(&panel["title"]) && said(&panel["description"]), "no title or no description");
    if panel["type"] == "text" {
        return Ok(());
    }
    let defaults = &panel["fieldConfig"]["defaults"];
    ensure!(said(&defaults["unit"]), "no unit");
    ensure!(defaults["thresholds"]["steps"].as_array().is_some_and(|steps| !steps.is_empty()), "no thresholds");
    let targets = panel["targets"].as_array().context("no targets")?;
    ensure!(!targets.is_empty(), "no targets");
    for target in targets {
        let source = target["datasource"]["uid"].as_str().unwrap_or_default();
        ensure!(DATASOURCES.contains(&source), "the data source {source:?} is not a variable");
    }
    Ok(())
}

#[test]
fn dashboards_name_only_what_there_is() -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    for dashboard in Dashboard::all()? {
        for query in dashboard.queries() {
            let found = complaints(&query.expression).into_iter();
            wrong.extend(found.map(|what| format!("{}, {:?}: {what}", dashboard.name, query.panel)));
        }
        for attribute in attributes(&decoded(&dashboard.json.to_string())) {
            if !ATTRIBUTES.contains(&format!("\"{attribute}\"")) {
                wrong.push(format!("{}: no span has an attribute {attribute}", dashboard.name));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Links are written as addresses.
fn decoded(text: &str) -> String {
    [("%20", " "), ("%3D", "="), ("%21", "!")].into_iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// Names after `span.` in `TraceQL`.
fn attributes(text: &str) -> BTreeSet<&str> {
    let after = text.split("span.").skip(1).map(|rest| rest.split([' ', '=', '!']).next().unwrap_or_default());
    after.filter(|name| name.contains('.')).collect()
}

#[test]
fn a_dashboard_leads_to_traces() -> anyhow::Result<()> {
    let text = decoded(&Dashboard::read("overview")?.json.to_string());
    let wanted = BTreeSet::from(["countersign.outcome", "countersign.step", "countersign.verdict", "messaging.message.id"]);
    ensure!(attributes(&text) == wanted, "{:?}", attributes(&text));
    Ok(())
}
