//! A rendered pod on this machine: the real binary with the arguments, environment, files and user of the container.
//!
//! **Invariant:** what differs is in [`Pod::differences`] and nowhere else: where servers are, where is listened, and where files lie. All
//! else is taken as rendered.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use countersign_boot::Shutdown;
use countersign_boot::shutdown::longest_stop;
use countersign_launcher::{Program, binary, free_port};
use serde_json::Value;

use super::rendered::{items, root};
use super::{OVERLAYS, Object, Rendered};

/// How long a program may take to look at its configuration.
const LOOK: Duration = Duration::from_secs(30);

/// One rendered pod, put onto this machine.
#[derive(Debug)]
pub struct Pod {
    /// The name of what makes it.
    pub name: String,
    /// The template's spec.
    spec: Value,
    /// Stands for the container's root.
    root: PathBuf,
    /// What is written otherwise here than rendered: an address, or the path of a mount.
    differences: Vec<(String, String)>,
    /// The local port of each port of the container, by name.
    ports: BTreeMap<String, u16>,
    /// Names and values, as rendered.
    environment: Vec<(String, String)>,
}

impl Pod {
    /// Puts the files of its volumes below `dir`. `elsewhere` are the addresses that lead out of it, rendered and here; `secret` says what
    /// somebody else puts into a Secret that the overlay does not make.
    pub fn place(
        rendered: &Rendered,
        object: &Object,
        dir: &Path,
        elsewhere: &[(String, String)],
        secret: impl Fn(&str) -> Option<String>,
    ) -> anyhow::Result<Self> {
        let spec = object.pod().context("it makes no pods")?["spec"].clone();
        let containers: Vec<_> = object.containers().collect();
        let [container] = containers[..] else { bail!("{}: expected one container", object.name()) };
        let root = dir.join("pods").join(object.name());
        let mut pod = Self {
            name: object.name().to_owned(),
            spec: spec.clone(),
            root: root.clone(),
            differences: elsewhere.to_vec(),
            ports: BTreeMap::new(),
            environment: Vec::new(),
        };
        for port in items(&container["ports"]) {
            let (name, number) = (text(&port["name"])?, port["containerPort"].as_u64().context("no port")?);
            let here = free_port()?;
            pod.differences.push((format!("0.0.0.0:{number}"), format!("127.0.0.1:{here}")));
            pod.ports.insert(name.to_owned(), here);
        }
        for mount in items(&container["volumeMounts"]) {
            let path = text(&mount["mountPath"])?;
            pod.differences.push((path.to_owned(), format!("{}{path}", root.display())));
        }
        std::fs::create_dir_all(&root)?;
        for mount in items(&container["volumeMounts"]) {
            let volume = items(&spec["volumes"]).find(|volume| volume["name"] == mount["name"]).context("no such volume")?;
            pod.fill(rendered, volume, text(&mount["mountPath"])?, &secret)?;
        }
        for variable in items(&container["env"]) {
            let from = &variable["valueFrom"]["secretKeyRef"];
            let value = if let Some(value) = variable["value"].as_str() {
                value.to_owned()
            } else {
                let key = text(&from["key"])?;
                let made = rendered.data("Secret", text(&from["name"])?, key)?;
                made.or_else(|| secret(key)).with_context(|| format!("nobody makes {from}"))?
            };
            pod.environment.push((text(&variable["name"])?.to_owned(), value));
        }
        Ok(pod)
    }

    /// Writes what is in a volume, with the owner and mode that the kubelet would give it.
    fn fill(&self, rendered: &Rendered, volume: &Value, at: &str, secret: impl Fn(&str) -> Option<String>) -> anyhow::Result<()> {
        let directory = self.root.join(at.trim_start_matches('/'));
        std::fs::create_dir_all(&directory)?;
        let (_, group) = self.user()?;
        if volume.get("emptyDir").is_some() {
            return give(&directory, 0o2775, group);
        }
        let (kind, source, name) = match (volume.get("configMap"), volume.get("secret")) {
            (Some(source), None) => ("ConfigMap", source, &source["name"]),
            (None, Some(source)) => ("Secret", source, &source["secretName"]),
            _ => bail!("{}: a volume of a kind that is not known here: {volume}", self.name),
        };
        let mode = source["defaultMode"].as_u64().map_or(Ok(0o644), u32::try_from)?;
        let name = text(name)?;
        let keys = match rendered.keys(kind, name) {
            keys if !keys.is_empty() => keys,
            _ => ["tokens.toml", "token", "tls.crt", "tls.key", "ca.crt"].map(str::to_owned).into(),
        };
        for key in keys {
            let rendered = rendered.data(kind, name, &key)?;
            let content = rendered.or_else(|| secret(&key)).with_context(|| format!("nobody makes {kind} {name}, {key}"))?;
            let file = directory.join(&key);
            std::fs::write(&file, self.here(&content))?;
            give(&file, mode, group)?;
        }
        Ok(())
    }

    /// A text as it has to be on this machine.
    fn here(&self, rendered: &str) -> String {
        let mut differences: Vec<_> = self.differences.iter().collect();
        differences.sort_by_key(|(there, _)| std::cmp::Reverse(there.len()));
        let (mut rest, mut written) = (rendered, String::new());
        while let Some(sign) = rest.chars().next() {
            if let Some((there, here)) = differences.iter().find(|(there, _)| rest.starts_with(there)) {
                written.push_str(here);
                rest = &rest[there.len()..];
            } else {
                written.push(sign);
                rest = &rest[sign.len_utf8()..];
            }
        }
        written
    }

    fn container(&self) -> &Value {
        &self.spec["containers"][0]
    }

    /// User and group of its processes.
    fn user(&self) -> anyhow::Result<(u32, u32)> {
        let context = &self.spec["securityContext"];
        let id = |key: &str| context[key].as_u64().with_context(|| format!("{}: no {key}", self.name));
        Ok((u32::try_from(id("runAsUser")?)?, u32::try_from(id("runAsGroup")?)?))
    }

    /// The container's process. `binaries` is a directory that any user may read. Not root: it runs as who runs this.
    pub fn program(&self, binaries: &Path, more: &[&str]) -> anyhow::Result<Program> {
        let container = self.container();
        let words =
            |key: &str| -> Vec<String> { items(&container[key]).filter_map(Value::as_str).map(|word| self.here(word)).collect() };
        let command = words("command");
        let path = match command.split_first() {
            Some((program, _)) => PathBuf::from(program),
            None => entrypoint(text(&container["image"])?, binaries)?,
        };
        let mut program = Program::new(path).args(command.into_iter().skip(1)).args(words("args")).args(more.iter().copied());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name != "PATH") {
            program = program.env_remove(name);
        }
        for (name, value) in &self.environment {
            program = program.env(name, self.here(value));
        }
        if rustix::process::geteuid().is_root() {
            let (user, group) = self.user()?;
            program = program.user(user, group);
        }
        Ok(program.current_dir(&self.root).log_to(self.root.with_extension("log")))
    }

    /// The local port of a port of its container.
    pub fn port(&self, name: &str) -> anyhow::Result<u16> {
        self.ports.get(name).copied().with_context(|| format!("{} has no port {name}", self.name))
    }

    /// Where a probe asks; the kubelet takes an answer from 200 on below 400 for success.
    pub fn probe(&self, which: &str) -> anyhow::Result<String> {
        let ask = &self.container()[which]["httpGet"];
        let scheme = ask["scheme"].as_str().unwrap_or("HTTP").to_lowercase();
        Ok(format!("{scheme}://127.0.0.1:{}{}", self.port(text(&ask["port"])?)?, text(&ask["path"])?))
    }

    /// Between SIGTERM and SIGKILL: what the grace period leaves after `preStop`.
    pub fn grace(&self) -> anyhow::Result<Duration> {
        let grace = self.spec["terminationGracePeriodSeconds"].as_u64().context("no grace period")?;
        let slept = self.container()["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().context("no sleep before the stop")?;
        Ok(Duration::from_secs(grace.saturating_sub(slept)))
    }
}

/// The program that an image starts, by the stage of `deploy/docker/Dockerfile` with the image's name: a hard link to what cargo has built,
/// where any user may read it.
fn entrypoint(image: &str, binaries: &Path) -> anyhow::Result<PathBuf> {
    let name = image.rsplit('/').next().and_then(|name| name.split(':').next()).context("an image without a name")?;
    let text = std::fs::read_to_string(root().join("deploy/docker/Dockerfile"))?;
    let stage = text.split(&format!(" AS {name}\n")).nth(1).with_context(|| format!("the Dockerfile makes no {image}"))?;
    let entry = stage.lines().find_map(|line| line.strip_prefix("ENTRYPOINT [\"/usr/local/bin/")).context("no ENTRYPOINT")?;
    let name = entry.trim_end_matches("\"]");
    let (built, link) = (binary(name)?, binaries.join(name));
    if !link.exists() && std::fs::hard_link(&built, &link).is_err() {
        std::fs::copy(&built, &link)?;
    }
    Ok(link)
}

/// Sets mode and group, the latter if we may.
fn give(path: &Path, mode: u32, group: u32) -> anyhow::Result<()> {
    if rustix::process::geteuid().is_root() {
        chown(path, None, Some(group))?;
    }
    Ok(std::fs::set_permissions(path, Permissions::from_mode(mode))?)
}

/// A text that must be there.
pub fn text(value: &Value) -> anyhow::Result<&str> {
    value.as_str().with_context(|| format!("a text is missing: {value}"))
}

/// A directory that any user may go through.
pub fn open_directory() -> anyhow::Result<tempfile::TempDir> {
    let directory = tempfile::TempDir::with_prefix("countersign-pods-")?;
    std::fs::set_permissions(directory.path(), Permissions::from_mode(0o755))?;
    Ok(directory)
}

/// What somebody else puts into the Secrets of production, as far as a configuration is looked at without being used.
fn stand_in(key: &str) -> Option<String> {
    let value = match key {
        "amqp-url" => "amqps://user:secret@rabbitmq.example:5671/%2f",
        "redis-url" => "rediss://user:secret@redis.example:6379/0",
        "database-url" => "postgres://user:secret@postgres.example:5432/name",
        "tokens.toml" | "token" | "tls.crt" | "tls.key" | "ca.crt" => "",
        _ => return None,
    };
    Some(value.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_service_accepts_its_configuration_and_has_the_time_to_stop_that_it_takes() -> anyhow::Result<()> {
    for overlay in OVERLAYS {
        let rendered = Rendered::of(overlay).await?;
        let directory = open_directory()?;
        for name in ["upstream", "downstream", "callback"] {
            let object = rendered.find("Deployment", name)?;
            let pod = Pod::place(&rendered, object, directory.path(), &[], stand_in)?;
            let process = pod.program(directory.path(), &["--check-config"])?.spawn()?;
            let status = process.wait(LOOK).await?;
            let said = process.log_text();
            ensure!(status.success(), "{overlay}: {name} does not accept what is rendered for it: {said}");
            ensure!(!said.contains("secret@") && !said.contains(":dev-"), "{overlay}: {name} shows a password: {said}");

            let settings: toml::Table = said.parse().with_context(|| format!("{overlay}: {name} printed {said}"))?;
            for port in ["grpc", "http"] {
                let listens = settings[port]["listen"].as_str();
                let expected = format!("127.0.0.1:{}", pod.port(port)?);
                ensure!(
                    listens == Some(&expected),
                    "{overlay}: {name} listens for {port} at {listens:?}, its port is {expected}"
                );
            }
            let limits: Shutdown = settings["shutdown"].clone().try_into()?;
            let (grace, longest) = (pod.grace()?, longest_stop(&limits));
            ensure!(grace >= longest, "{overlay}: {name} takes {longest:?} to stop, and is killed after {grace:?}");
            ensure!(settings["log"]["format"].as_str() == Some("json"), "{overlay}: {name} does not log for machines");
            ensure!(settings["topology"]["apply"].as_bool() == Some(false), "{overlay}: {name} would declare");
            let migrates = settings.get("database").and_then(|database| database.get("migrate")).and_then(toml::Value::as_bool);
            ensure!(name == "downstream" || migrates == Some(false), "{overlay}: {name} would create tables");
            let tls = settings["tls"]["certificate_file"].as_str().is_some_and(|file| !file.is_empty());
            ensure!(tls == (overlay == "production"), "{overlay}: {name} and TLS: {tls}");
        }
    }
    Ok(())
}
