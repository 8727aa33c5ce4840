//! The stack of the compose file, as processes: real servers with the files mounted into them, our programs as they are described.
//!
//! What differs from containers stands in [`Stage::mapped`] and nowhere else: names and ports of the stack's network become free ports of
//! the loopback address, and paths in a container become paths below a directory of the test.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_launcher::{Postgres, Program, RabbitMq, Running, binary, free_port, wait_until};
use reqwest::Client;
use sea_orm::{ConnectionTrait as _, Database};
use serde_json::Value;

use super::file::{Compose, texts};

/// How long any one thing may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
/// Every address of the stack's network that anything is reached at.
const ADDRESSES: [&str; 10] = [
    "upstream:50051",
    "upstream:8080",
    "downstream:50051",
    "downstream:8080",
    "callback:50051",
    "callback:8080",
    "handler:9000",
    "redis:6379",
    "rabbitmq:15692",
    "collector:4317",
];
/// Where containers see files.
const PATHS: [&str; 7] =
    ["/etc/countersign/", "/etc/prometheus/", "/etc/redis/", "/run/secrets/", "/handler.py", "/tmp/", "/prometheus"];

/// The compose file, with a place for its files and its addresses.
pub(super) struct Stage {
    compose: Compose,
    dir: tempfile::TempDir,
    /// What every address of the network is here; empty: as it is.
    addresses: BTreeMap<String, String>,
}

impl Stage {
    /// Only paths are mapped: the addresses stay those of the containers.
    pub(super) fn of_paths(compose: Compose) -> anyhow::Result<Self> {
        Ok(Self { compose, dir: tempfile::tempdir()?, addresses: BTreeMap::new() })
    }

    /// Addresses are mapped too: what is not given gets a free port of the loopback address.
    fn of_processes(compose: Compose, given: &[(&str, String)]) -> anyhow::Result<Self> {
        let mut addresses = BTreeMap::new();
        for address in ADDRESSES {
            addresses.insert(address.to_owned(), format!("127.0.0.1:{}", free_port()?));
        }
        addresses.extend(given.iter().map(|(from, to)| ((*from).to_owned(), to.clone())));
        Ok(Self { compose, dir: tempfile::tempdir()?, addresses })
    }

    /// A text of the stack as it holds for this service here. The only place that changes anything.
    fn mapped(&self, service: &str, text: &str) -> String {
        let mut text = self.addresses.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from.as_str(), to));
        for port in ["50051", "8080", "9000"] {
            // Where the service itself listens.
            if let Some(here) = self.addresses.get(&format!("{service}:{port}")) {
                text = text.replace(&format!("0.0.0.0:{port}"), here).replace(&format!("127.0.0.1:{port}"), here);
                if text == port {
                    here.rsplit(':').next().unwrap_or(port).clone_into(&mut text);
                }
            }
        }
        if text == "0.0.0.0" {
            "127.0.0.1".clone_into(&mut text);
        }
        below(&self.root(service), &text)
    }

    /// The root of a service's file system.
    fn root(&self, service: &str) -> PathBuf {
        self.dir.path().join(service)
    }

    /// Puts a service's files where it sees them, and returns its environment.
    pub(super) fn environment(&self, service: &str) -> anyhow::Result<BTreeMap<String, String>> {
        for (place, source) in self.compose.mounts(service)? {
            self.place(service, &place, &source)?;
        }
        std::fs::create_dir_all(self.root(service).join("tmp"))?;
        let environment = self.compose.environment(service)?.into_iter();
        Ok(environment.map(|(name, value)| (name, self.mapped(service, &value))).collect())
    }

    fn place(&self, service: &str, place: &str, source: &Path) -> anyhow::Result<()> {
        let path = self.root(service).join(place.trim_start_matches('/'));
        if source.is_dir() {
            for entry in std::fs::read_dir(source)? {
                let entry = entry?.path();
                let name = entry.file_name().and_then(|name| name.to_str()).context("no name")?.to_owned();
                self.place(service, &format!("{place}/{name}"), &entry)?;
            }
            return Ok(());
        }
        let text = std::fs::read_to_string(source).with_context(|| source.display().to_string())?;
        std::fs::create_dir_all(path.parent().context("no folder")?)?;
        Ok(std::fs::write(path, self.mapped(service, &text))?)
    }

    fn described(&self, service: &str, key: &str) -> anyhow::Result<Vec<String>> {
        Ok(texts(&self.compose.service(service)?[key]).iter().map(|text| self.mapped(service, text)).collect())
    }

    /// A program with a service's files and environment.
    fn program(&self, service: &str, program: &str) -> anyhow::Result<Program> {
        let path = binary(program).unwrap_or_else(|_| program.into());
        let mut program = Program::new(path).current_dir(self.root(service)).log_to(self.root(service).join("log"));
        for (name, value) in self.environment(service)? {
            program = program.env(name, value);
        }
        Ok(program)
    }

    /// Starts a service: its command, or, where it has none, the program that its image starts.
    fn start(&self, service: &str, more: &[String]) -> anyhow::Result<Running> {
        let command = self.described(service, "command")?;
        let image = self.compose.service(service)?["image"].as_str().unwrap_or_default().to_owned();
        let (program, arguments) = match image.as_str() {
            ours if ours.starts_with("countersign/command:") => ("countersign", &command[..]),
            prometheus if prometheus.starts_with("prom/prometheus:") => ("prometheus", &command[..]),
            _ if command.is_empty() => (service, &command[..]),
            _ => (if command[0] == "python" { "python3" } else { &command[0] }, &command[1..]),
        };
        self.program(service, program)?
            .args(arguments)
            .args(more)
            .spawn()
            .with_context(|| format!("starting {service}: {program}"))
    }

    /// Waits until a service's own health check says that it is healthy.
    async fn healthy(&self, service: &str, running: &Running) -> anyhow::Result<()> {
        let test = texts(&self.compose.service(service)?["healthcheck"]["test"]);
        let (program, arguments) = test[1..].split_first().context("no program")?;
        let program = if program == "python" { "python3" } else { program.rsplit('/').next().unwrap_or(program) };
        let arguments: Vec<_> = arguments
            .iter()
            .map(|text| match self.addresses.get("handler:9000") {
                Some(here) if service == "handler" => text.replace("9000", here.rsplit(':').next().unwrap_or_default()),
                _ => text.clone(),
            })
            .collect();
        let check = self.program(service, program)?.args(arguments).log_to(self.root(service).join("health"));
        let asked = async || {
            let Ok(check) = check.spawn() else { return true };
            check.wait(PATIENCE).await.is_ok_and(|status| status.success()) || !running.is_alive()
        };
        wait_until(&format!("{service} to be healthy"), PATIENCE, asked).await.with_context(|| running.log_text())?;
        ensure!(running.is_alive() && check.spawn()?.wait(PATIENCE).await?.success(), "{service}: {}", running.log_text());
        Ok(())
    }

    fn url(&self, address: &str) -> String {
        format!("http://{}", self.addresses[address])
    }

    /// Runs the command as `docker compose run command …` would, and returns what it printed.
    async fn command(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let run = self.program("command", "countersign")?.args(arguments.iter().copied()).spawn()?;
        let status = run.wait(PATIENCE).await?;
        ensure!(status.success(), "countersign {arguments:?} ended with {status}: {}", run.log_text());
        Ok(run.log_text())
    }
}

/// A text with every path of a container, at its beginning or that of a word, below this directory.
fn below(root: &Path, text: &str) -> String {
    let mut mapped = String::with_capacity(text.len());
    let mut before = ' ';
    for (at, letter) in text.char_indices() {
        if ['"', '=', ' '].contains(&before) && PATHS.iter().any(|path| text[at..].starts_with(path)) {
            mapped += &root.display().to_string();
        }
        mapped.push(letter);
        before = letter;
    }
    mapped
}

/// RabbitMQ with the mounted file, Redis with the mounted command, PostgreSQL after the mounted script.
struct Servers {
    rabbitmq: RabbitMq,
    postgres: Postgres,
    _dir: tempfile::TempDir,
}

impl Servers {
    async fn start(compose: &Compose) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let mounted = |service: &str, place: &str| {
            let file = compose.mounts(service)?.remove(place).with_context(|| format!("{service} has no {place}"))?;
            Ok::<_, anyhow::Error>(std::fs::read_to_string(file)?)
        };
        // The private node reads a directory of this name after its own file.
        let own = dir.path().join("rabbitmq/conf.d");
        std::fs::create_dir_all(&own)?;
        std::fs::write(own.join("20-countersign.conf"), mounted("rabbitmq", "/etc/rabbitmq/conf.d/20-countersign.conf")?)?;
        let (rabbitmq, postgres) = tokio::try_join!(RabbitMq::start(dir.path()), Postgres::start(dir.path()))?;
        let admin = Database::connect(postgres.url()).await?;
        let script = mounted("postgres", "/docker-entrypoint-initdb.d/databases.sql")?;
        let script: Vec<_> = script.lines().filter(|line| !line.starts_with("--")).collect();
        // One by one, as psql does: no database is created within a transaction.
        for statement in script.join("\n").split(';').filter(|statement| !statement.trim().is_empty()) {
            admin.execute_unprepared(statement).await?;
        }
        admin.close().await?;
        Ok(Self { rabbitmq, postgres, _dir: dir })
    }

    /// What the addresses of the stack are here.
    fn addresses(&self) -> [(&'static str, String); 2] {
        let place = |url: &str| url.rsplit('@').next().unwrap_or_default().split('/').next().unwrap_or_default().to_owned();
        [("rabbitmq:5672", place(&self.rabbitmq.amqp_url("/"))), ("postgres:5432", place(&self.postgres.url()))]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_goes_through_the_stack_of_the_compose_file() -> anyhow::Result<()> {
    // A second installation in one process answers with an error that means nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let compose = Compose::read().await?;
    let servers = Servers::start(&compose).await?;
    let stage = Stage::of_processes(compose, &servers.addresses())?;

    let redis_port = stage.addresses["redis:6379"].rsplit(':').next().unwrap_or_default().to_owned();
    let here = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    std::fs::create_dir_all(stage.root("redis"))?;
    let redis = stage.start("redis", &here(&["--port", &redis_port, "--bind", "127.0.0.1"]))?;
    redis.wait_for_log("Ready to accept connections", PATIENCE).await?;
    let topology = stage.start("topology", &[])?;
    ensure!(topology.wait(PATIENCE).await?.success(), "topology: {}", topology.log_text());

    let mut running = Vec::new();
    for service in ["handler", "upstream", "downstream", "callback"] {
        running.push((service, stage.start(service, &[])?));
    }
    for (service, process) in &running {
        stage.healthy(service, process).await?;
    }
    sends(&stage).await?;
    is_scraped(&stage).await?;
    for (service, process) in running.iter().filter(|(service, _)| *service != "handler") {
        process.terminate()?;
        let status = process.wait(PATIENCE).await?;
        ensure!(status.success(), "{service} ended with {status}: {}", process.log_text());
    }
    Ok(())
}

/// Whoever shows no token sends nothing; with the shop's token an order is taken, handled and signed for.
async fn sends(stage: &Stage) -> anyhow::Result<()> {
    let client = Client::builder().timeout(PATIENCE).no_proxy().build()?;
    let order = || {
        let request = client.post(format!("{}/v1/messages?exchange=orders", stage.url("upstream:8080")));
        let attributes = [("ce-specversion", "1.0"), ("ce-id", "A-1"), ("ce-source", "/shop"), ("ce-type", "order.created")];
        let request = attributes.into_iter().fold(request, |request, (name, value)| request.header(name, value));
        request.header("content-type", "application/json").body(r#"{"order_id":"A-1"}"#)
    };
    let token = std::fs::read_to_string(super::repository("deploy/docker/example-secrets/shop.token"))?;
    ensure!(order().send().await?.status() == 401, "somebody without a token was let in");
    let answer = order().bearer_auth(token.trim()).send().await?;
    let (status, body) = (answer.status(), answer.json::<Value>().await?);
    ensure!(status == 202, "{status}: {body}");
    let id = body["id"].as_str().with_context(|| body.to_string())?;
    let done = async || stage.command(&["list", "--state", "done"]).await.is_ok_and(|said| said.contains(id));
    wait_until("the order to be done", PATIENCE, done).await?;
    let sent =
        stage.command(&["send", "--exchange", "orders", "--type", "order.created", "--body", r#"{"order_id":"A-2"}"#]).await?;
    ensure!(sent.contains("confirmed") || sent.contains("committed"), "the operator's order was not taken: {sent}");
    Ok(())
}

/// Prometheus' own tool finds nothing wrong with its configuration, rules included, and it scrapes the three with its token.
async fn is_scraped(stage: &Stage) -> anyhow::Result<()> {
    let address = format!("127.0.0.1:{}", free_port()?);
    std::fs::create_dir_all(stage.root("prometheus").join("prometheus"))?;
    let configuration = stage.root("prometheus").join("etc/prometheus/prometheus.yml");
    let check = stage.program("prometheus", "promtool")?.args(["check", "config"]).arg(configuration).spawn()?;
    ensure!(check.wait(PATIENCE).await?.success(), "promtool: {}", check.log_text());
    let prometheus = stage.start("prometheus", &[format!("--web.listen-address={address}")])?;
    let client = Client::builder().timeout(PATIENCE).no_proxy().build()?;
    let url = format!("http://{address}/api/v1/query?query=up%7Bjob%3D~%22upstream%7Cdownstream%7Ccallback%22%7D%20%3D%3D%201");
    let up = async || {
        let Ok(answer) = client.get(&url).send().await else { return !prometheus.is_alive() };
        let answer = answer.json::<Value>().await.unwrap_or_default();
        answer["data"]["result"].as_array().is_some_and(|series| series.len() == 3)
    };
    wait_until("Prometheus to scrape the three services", PATIENCE, up).await.with_context(|| prometheus.log_text())?;
    ensure!(prometheus.is_alive(), "Prometheus has ended: {}", prometheus.log_text());
    Ok(())
}
