//! `deploy/docker/compose.yaml`, read.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use countersign_launcher::tools;
use serde_json::{Map, Value};
use tokio::process::Command;

use super::repository;

/// Where paths in the file begin.
const FOLDER: &str = "deploy/docker";

/// The file as JSON, its anchors and merges resolved.
pub(super) struct Compose(pub(super) Value);

/// Any YAML file of the repository as JSON.
pub(super) async fn yaml(path: &str) -> anyhow::Result<Value> {
    let print = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1], encoding='utf-8'))))";
    let read = Command::new(tools().await?).args(["-c", print]).arg(repository(path)).kill_on_drop(true).output().await?;
    ensure!(read.status.success(), "{path} is no YAML: {}", String::from_utf8_lossy(&read.stderr));
    Ok(serde_json::from_slice(&read.stdout)?)
}

/// The texts of a list; none where there is no list.
pub(super) fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|text| Some(text.as_str()?.to_owned())).collect()
}

impl Compose {
    pub(super) async fn read() -> anyhow::Result<Self> {
        Ok(Self(yaml("deploy/docker/compose.yaml").await?))
    }

    pub(super) fn section(&self, name: &str) -> anyhow::Result<&Map<String, Value>> {
        self.0[name].as_object().with_context(|| format!("compose.yaml has no section {name}"))
    }

    pub(super) fn services(&self) -> anyhow::Result<&Map<String, Value>> {
        self.section("services")
    }

    pub(super) fn service(&self, name: &str) -> anyhow::Result<&Value> {
        self.services()?.get(name).with_context(|| format!("compose.yaml has no service {name}"))
    }

    /// What a service gets in its environment.
    pub(super) fn environment(&self, service: &str) -> anyhow::Result<BTreeMap<String, String>> {
        let variables = self.service(service)?["environment"].as_object().into_iter().flatten();
        let text = |(name, value): (&String, &Value)| {
            let text =
                value.as_str().with_context(|| format!("{service}: {name} is no text, so Compose would write it its own way"))?;
            Ok((name.clone(), text.to_owned()))
        };
        variables.map(text).collect()
    }

    /// The files and folders of the repository that a service sees, by the path under which it sees them.
    pub(super) fn mounts(&self, service: &str) -> anyhow::Result<BTreeMap<String, PathBuf>> {
        let described = self.service(service)?;
        let mut mounts = BTreeMap::new();
        for config in described["configs"].as_array().into_iter().flatten() {
            let part = |key: &str| config[key].as_str().with_context(|| format!("{service}: a config without {key}"));
            mounts.insert(part("target")?.to_owned(), self.source("configs", part("source")?)?);
        }
        for secret in texts(&described["secrets"]) {
            mounts.insert(format!("/run/secrets/{secret}"), self.source("secrets", &secret)?);
        }
        for volume in texts(&described["volumes"]) {
            let mut parts = volume.split(':');
            let (from, to) = (parts.next().unwrap_or_default(), parts.next().context("a volume without a place")?);
            if from.starts_with('.') {
                ensure!(parts.next() == Some("ro"), "{service}: {volume} may write into the repository: add :ro");
                mounts.insert(to.to_owned(), repository(FOLDER).join(from));
            } else {
                ensure!(self.section("volumes")?.contains_key(from), "{service}: the volume {from} is not declared");
            }
        }
        Ok(mounts)
    }

    fn source(&self, section: &str, name: &str) -> anyhow::Result<PathBuf> {
        let file = self.section(section)?.get(name).and_then(|declared| declared["file"].as_str());
        Ok(repository(FOLDER).join(file.with_context(|| format!("{section} has no file {name}"))?))
    }
}
