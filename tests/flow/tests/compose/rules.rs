//! What holds for the compose file and the configuration beside it, without starting a server.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use countersign_launcher::binary;
use serde_json::Value;
use tokio::process::Command;

use super::file::{Compose, texts, yaml};
use super::repository;
use super::stack::Stage;

/// Where confinement is ours to choose: our images, and the handler. The servers' images start as root to prepare their volumes.
const CONFINED: [&str; 6] = ["upstream", "downstream", "callback", "topology", "command", "handler"];
/// Two that end by themselves, and two whose images hold nothing that could ask.
const WITHOUT_HEALTH: [&str; 4] = ["topology", "command", "collector", "tempo"];

#[tokio::test]
async fn every_service_of_the_compose_file_is_pinned_confined_and_asked_for_its_health() -> anyhow::Result<()> {
    let compose = Compose::read().await?;
    for (name, service) in compose.services()? {
        let image = service["image"].as_str().with_context(|| format!("{name} has no image"))?;
        let tag = image.split_once(':').with_context(|| format!("{name}: {image} has no tag"))?.1;
        ensure!(tag.contains(|digit: char| digit.is_ascii_digit()) && !tag.contains("latest"), "{name}: {image} is not pinned");
        if image.starts_with("countersign/") {
            ensure!(tag == env!("CARGO_PKG_VERSION"), "{name}: {image} is not the workspace's version");
        }
        for port in texts(&service["ports"]) {
            ensure!(port.starts_with("127.0.0.1:"), "{name}: port {port} would be open to others");
        }
        ensure!(texts(&service["security_opt"]) == ["no-new-privileges:true"], "{name} may gain privileges");
        ensure!(service["logging"]["options"]["max-size"].is_string(), "{name}: its log is not bounded");
        if CONFINED.contains(&name.as_str()) {
            ensure!(service["user"] == "10001:10001" && service["read_only"] == true, "{name} is not confined: {service}");
            ensure!(texts(&service["cap_drop"]) == ["ALL"], "{name} keeps capabilities");
        }
        let asked = service["healthcheck"]["test"].is_array();
        ensure!(asked != WITHOUT_HEALTH.contains(&name.as_str()), "{name}: asked for its health: {asked}");
    }
    Ok(())
}

#[tokio::test]
async fn what_services_wait_for_can_come_true() -> anyhow::Result<()> {
    let compose = Compose::read().await?;
    for (name, service) in compose.services()? {
        for other in texts(&service["depends_on"]) {
            compose.service(&other)?;
        }
        for (other, how) in service["depends_on"].as_object().into_iter().flatten() {
            let awaited = compose.service(other)?;
            let possible = match how["condition"].as_str() {
                Some("service_healthy") => awaited["healthcheck"]["test"].is_array(),
                Some("service_completed_successfully") => awaited["restart"] == "on-failure:5",
                _ => false,
            };
            ensure!(possible, "{name} would wait for {other} for ever: {how}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn every_file_that_is_mounted_exists_and_every_one_declared_is_mounted() -> anyhow::Result<()> {
    let compose = Compose::read().await?;
    let mut mounted = BTreeSet::new();
    for name in compose.services()?.keys() {
        for (place, source) in compose.mounts(name)? {
            ensure!(source.exists(), "{name}: {} is mounted to {place}, and is not there", source.display());
            mounted.insert(source);
        }
    }
    let secrets = std::fs::read_dir(repository("deploy/docker/example-secrets"))?.count();
    ensure!(
        secrets == compose.section("secrets")?.len() + 1,
        "a file of example-secrets is not declared (shop.token is for you)"
    );
    for section in ["configs", "secrets"] {
        for (name, declared) in compose.section(section)? {
            let file = repository("deploy/docker").join(declared["file"].as_str().context("no file")?);
            ensure!(mounted.contains(&file), "{section}: {name} is mounted nowhere");
        }
    }
    Ok(())
}

#[tokio::test]
async fn each_service_accepts_the_environment_and_the_files_it_is_given() -> anyhow::Result<()> {
    let stage = Stage::of_paths(Compose::read().await?)?;
    for service in ["upstream", "downstream", "callback"] {
        let checked = Command::new(binary(service)?).arg("--check-config").envs(stage.environment(service)?).output().await?;
        let said = String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()).into_owned();
        ensure!(checked.status.success(), "{service} does not accept what it is given: {said}");
        ensure!(
            said.contains("0.0.0.0:50051") && !said.contains("example-"),
            "{service} shows a password, or not its file: {said}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn the_collector_and_tempo_name_only_what_they_have() -> anyhow::Result<()> {
    let collector = yaml("deploy/otel/collector.yaml").await?;
    let has = |kind: &str, name: &str| collector[kind].get(name).is_some();
    for (pipeline, parts) in collector["service"]["pipelines"].as_object().context("no pipelines")? {
        for kind in ["receivers", "processors", "exporters"] {
            let named = texts(&parts[kind]);
            ensure!(!named.is_empty() && named.iter().all(|name| has(kind, name)), "{pipeline}: {kind} {named:?}");
        }
        ensure!(texts(&parts["processors"]).first().is_some_and(|first| first == "memory_limiter"), "{pipeline} is not bounded");
    }
    let compose = Compose::read().await?;
    let tempo = yaml("deploy/otel/tempo.yaml").await?;
    let takes = tempo["distributor"]["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"].as_str().unwrap_or_default();
    let sent = collector["exporters"]["otlp"]["endpoint"].as_str().unwrap_or_default();
    ensure!(sent.strip_prefix("tempo") == takes.strip_prefix("0.0.0.0") && !takes.is_empty(), "sent to {sent}, taken at {takes}");
    let kept = texts(&compose.service("tempo")?["volumes"]);
    for path in [&tempo["storage"]["trace"]["wal"]["path"], &tempo["storage"]["trace"]["local"]["path"]] {
        ensure!(path.as_str().is_some_and(|path| path.starts_with("/var/tempo/")) && kept == ["tempo:/var/tempo"], "{path}");
    }
    services_send_there(&collector)
}

/// Every service's traces go to the collector's receiver.
fn services_send_there(collector: &Value) -> anyhow::Result<()> {
    let takes = collector["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"].as_str().unwrap_or_default();
    let address = takes.replace("0.0.0.0", "http://collector");
    for service in ["upstream", "downstream", "callback"] {
        let text = std::fs::read_to_string(repository(&format!("deploy/docker/{service}.toml")))?;
        ensure!(text.contains(&format!("otlp_endpoint = {address:?}")), "{service} does not send its traces to {address}");
    }
    Ok(())
}
