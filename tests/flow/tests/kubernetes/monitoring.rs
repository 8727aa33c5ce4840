//! How metrics are scraped: objects of the Prometheus operator, whose schemas are not at hand.

use anyhow::{Context as _, ensure};

use super::policy::matches;
use super::rendered::items;
use super::{Object, Rendered};

#[tokio::test]
async fn each_service_is_scraped_as_a_viewer_over_tls() -> anyhow::Result<()> {
    let rendered = Rendered::of("production").await?;
    let monitors: Vec<_> = rendered.all("ServiceMonitor").map(Object::name).collect();
    ensure!(monitors == ["callback", "downstream", "upstream"], "{monitors:?}");
    for name in monitors {
        let monitor = rendered.find("ServiceMonitor", name)?;
        let wanted = &monitor.0["spec"]["selector"]["matchLabels"];
        let selected: Vec<_> =
            rendered.all("Service").filter(|service| matches(wanted, &service.0["metadata"]["labels"])).collect();
        let [service] = selected[..] else { anyhow::bail!("{name}: it selects {} Services", selected.len()) };
        ensure!(service.name() == name, "{name}: it selects {}", service.name());
        let endpoints: Vec<_> = items(&monitor.0["spec"]["endpoints"]).collect();
        let [endpoint] = endpoints[..] else { anyhow::bail!("{name} has {} endpoints", endpoints.len()) };
        ensure!(
            items(&service.0["spec"]["ports"]).any(|port| port["name"] == endpoint["port"]),
            "{name}: no port {}",
            endpoint["port"]
        );
        ensure!(endpoint["path"] == "/metrics" && endpoint["scheme"] == "https", "{name}: {endpoint}");
        // The operator's own label of that name would push ours aside, which alerts and dashboards go by.
        ensure!(endpoint["honorLabels"] == true, "{name}: {endpoint}");
        ensure!(endpoint["authorization"]["credentials"]["name"] == "countersign-metrics-token", "{name}: {endpoint}");
        let tls = &endpoint["tlsConfig"];
        let authority = tls["ca"]["secret"]["name"].as_str().context("no authority")?;
        ensure!(tls["serverName"] == name && authority == format!("{name}-tls"), "{name}: {tls}");
    }
    Ok(())
}
