//! An overlay as `kubectl` renders it.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use countersign_launcher::tools;
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

/// How long one of the tools may take on a busy machine.
const TOOL: Duration = Duration::from_mins(1);
/// The oldest version in which everything that is rendered exists without a switch, and the newest whose schemas are at hand.
const VERSIONS: [&str; 2] = ["1.30.0", "1.37.0"];
/// Reads YAML documents and prints them as one line of JSON.
const TO_JSON: &str = "import json, sys, yaml; json.dump([d for d in yaml.safe_load_all(open(sys.argv[1])) if d], sys.stdout)";

/// One object of the API.
#[derive(Clone, Debug)]
pub struct Object(pub Value);

impl Object {
    /// Its kind.
    pub fn kind(&self) -> &str {
        self.0["kind"].as_str().unwrap_or_default()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.0["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// The template of its pods, if it makes any.
    pub fn pod(&self) -> Option<&Value> {
        self.0["spec"].get("template").filter(|template| template["spec"]["containers"].is_array())
    }

    /// The containers of its pods.
    pub fn containers(&self) -> impl Iterator<Item = &Value> {
        let spec = self.pod().map(|pod| &pod["spec"]);
        spec.into_iter().flat_map(|spec| ["initContainers", "containers"].map(|key| &spec[key])).flat_map(items)
    }
}

/// The items of a list; none of what is none.
pub fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// An overlay, rendered.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// Its name.
    pub overlay: &'static str,
    /// Its objects.
    pub objects: Vec<Object>,
}

impl Rendered {
    /// Renders one.
    pub async fn of(overlay: &'static str) -> anyhow::Result<Self> {
        let text = kustomize(&format!("deploy/kubernetes/overlays/{overlay}")).await?;
        Ok(Self { overlay, objects: parse(&text).await? })
    }

    /// The objects of a kind.
    pub fn all<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Object> {
        self.objects.iter().filter(move |object| object.kind() == kind)
    }

    /// One object.
    pub fn find(&self, kind: &str, name: &str) -> anyhow::Result<&Object> {
        let found = self.objects.iter().find(|object| object.kind() == kind && object.name() == name);
        found.with_context(|| format!("{}: there is no {kind} {name}", self.overlay))
    }

    /// What a `ConfigMap` or Secret holds under a key; Secrets are decoded. None when an overlay leaves it to somebody else.
    pub fn data(&self, kind: &str, name: &str, key: &str) -> anyhow::Result<Option<String>> {
        let Ok(object) = self.find(kind, name) else { return Ok(None) };
        let text = object.0["data"][key].as_str().with_context(|| format!("{kind} {name} has no {key}"))?;
        if kind == "ConfigMap" {
            return Ok(Some(text.to_owned()));
        }
        // Long ones are folded into lines.
        let text: String = text.split_whitespace().collect();
        Ok(Some(String::from_utf8(BASE64_STANDARD.decode(text)?)?))
    }

    /// All keys of a `ConfigMap` or Secret.
    pub fn keys(&self, kind: &str, name: &str) -> Vec<String> {
        let Ok(object) = self.find(kind, name) else { return Vec::new() };
        object.0["data"].as_object().into_iter().flat_map(|data| data.keys().cloned()).collect()
    }
}

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What `kubectl kustomize` makes of a directory of the repository.
pub async fn kustomize(directory: &str) -> anyhow::Result<String> {
    let output = tool("kubectl", &["kustomize", directory]).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "kubectl kustomize {directory}: {said}");
    ensure!(said.trim().is_empty(), "kubectl kustomize {directory} warns: {said}");
    Ok(String::from_utf8(output.stdout)?)
}

/// The documents of a text in YAML.
pub async fn parse(text: &str) -> anyhow::Result<Vec<Object>> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), text)?;
    let output = tool("python", &["-c", TO_JSON, &file.path().display().to_string()]).await?;
    ensure!(output.status.success(), "no YAML: {}", String::from_utf8_lossy(&output.stderr));
    let documents: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    Ok(documents.into_iter().map(Object).collect())
}

/// Runs one of the programs of `tests/tools.txt` from the top of the repository.
async fn tool(name: &str, arguments: &[&str]) -> anyhow::Result<Output> {
    let program = tools().await?.with_file_name(name);
    let mut command = Command::new(&program);
    command.args(arguments).current_dir(root()).kill_on_drop(true);
    let output = timeout(TOOL, command.output()).await.with_context(|| format!("{name} {arguments:?} does not end"))?;
    output.with_context(|| format!("starting {}", program.display()))
}

#[tokio::test]
async fn every_object_is_what_the_schemas_of_kubernetes_want() -> anyhow::Result<()> {
    for overlay in super::OVERLAYS {
        let directory = format!("deploy/kubernetes/overlays/{overlay}");
        let file = tempfile::Builder::new().suffix(".yaml").tempfile()?;
        std::fs::write(file.path(), kustomize(&directory).await?)?;
        for version in VERSIONS {
            let path = file.path().display().to_string();
            let output = tool("kubernetes-validate", &["--strict", "-k", version, &path]).await?;
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            ensure!(output.status.success(), "{overlay}, Kubernetes {version}: {said}");
            let passed = said.lines().filter(|line| line.contains("passed")).count();
            let known = Rendered::of(overlay).await?.objects.iter().filter(|object| !is_custom(object)).count();
            ensure!(passed == known, "{overlay}, Kubernetes {version}: {passed} of {known} objects were looked at: {said}");
        }
    }
    Ok(())
}

/// Whether the schemas do not know it: `monitoring.rs` looks at those.
fn is_custom(object: &Object) -> bool {
    object.0["apiVersion"].as_str().is_some_and(|version| version.starts_with("monitoring.coreos.com/"))
}
