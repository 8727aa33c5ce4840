//! Alerts and dashboards, as the cluster gets them.

use anyhow::{Context as _, ensure};

use super::Rendered;
use super::rendered::{kustomize, parse, root};

/// The alerts.
const RULES: &str = "deploy/prometheus/rules/countersign.yml";
/// How to make the object from them.
const WRITE: &str = "COUNTERSIGN_WRITE=1 cargo test -p countersign-flow --test flow --features countersign-boot/failpoints the_operator_gets_the_alerts";
/// What an annotation may hold, where `kubectl apply` without --server-side keeps a copy of the object: 256 KiB, less what is around it.
const APPLIED_MAX: usize = 200_000;

/// The rules file as an object of the operator: comments and all, two signs further to the right.
fn as_an_object(rules: &str) -> String {
    let indent = |line: &str| if line.is_empty() { "\n".to_owned() } else { format!("  {line}\n") };
    let spec: String = rules.lines().map(indent).collect();
    format!(
        "# Made from {RULES}: change it there, then `{WRITE}`.\napiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: \
         countersign\nspec:\n{spec}"
    )
}

#[tokio::test]
async fn the_operator_gets_the_alerts_that_are_shipped() -> anyhow::Result<()> {
    let (rules, object) = (root().join(RULES), root().join("deploy/kubernetes/components/monitoring/rules.yaml"));
    let made = as_an_object(&std::fs::read_to_string(&rules)?);
    if std::env::var_os("COUNTERSIGN_WRITE").is_some() {
        std::fs::write(&object, &made)?;
    }
    ensure!(std::fs::read_to_string(&object)? == made, "{} is not what {RULES} says: {WRITE}", object.display());

    let shipped = parse(&std::fs::read_to_string(&rules)?).await?;
    let rendered = Rendered::of("production").await?;
    let object = rendered.find("PrometheusRule", "countersign")?;
    ensure!(object.0["spec"] == shipped[0].0, "the spec differs from {RULES}");
    let map = parse(&kustomize("deploy/prometheus").await?).await?;
    let [map] = &map[..] else { anyhow::bail!("deploy/prometheus renders {} objects", map.len()) };
    ensure!(map.0["data"]["countersign.yml"] == std::fs::read_to_string(&rules)?, "the ConfigMap differs from {RULES}");
    Ok(())
}

#[tokio::test]
async fn every_dashboard_is_a_map_that_grafana_finds() -> anyhow::Result<()> {
    let mut shipped: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(root().join("deploy/grafana/dashboards"))? {
        shipped.push(entry?.file_name().to_string_lossy().into_owned());
    }
    shipped.sort();
    let rendered = Rendered::of("production").await?;
    let mut found = Vec::new();
    for map in rendered.all("ConfigMap").filter(|map| map.0["metadata"]["labels"]["grafana_dashboard"] == "1") {
        for key in rendered.keys("ConfigMap", map.name()) {
            let text = rendered.data("ConfigMap", map.name(), &key)?.context("no such dashboard")?;
            ensure!(text == std::fs::read_to_string(root().join("deploy/grafana/dashboards").join(&key))?, "{key} differs");
            ensure!(text.len() < APPLIED_MAX, "{key} has {} bytes: kubectl apply would refuse it", text.len());
            found.push(key);
        }
    }
    found.sort();
    ensure!(found == shipped, "deploy/grafana/kustomization.yaml makes {found:?}, deploy/grafana/dashboards has {shipped:?}");
    Ok(())
}
