//! A private broker, a private database, and one upstream on them.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use countersign_launcher::{Postgres, Program, RabbitMq, Running, binary, free_port, wait_until};
use countersign_wire::proto::upstream_service_client::UpstreamServiceClient;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use crate::{Database, Options};

/// Who must sign for the messages, and their work queue. Nobody consumes it.
pub const QUEUE: &str = "orders";
/// How long upstream may take to be ready, and to stop.
const READY: Duration = Duration::from_mins(1);
/// Bound of one call, and of one question over HTTP.
const ANSWER: Duration = Duration::from_mins(1);
/// Sends that are taken beyond those stored while the broker is away.
const SPARE: u32 = 200_000;

/// Everything that runs. Dropping it ends it.
#[derive(Debug)]
pub struct Installation {
    pub rabbitmq: RabbitMq,
    pub upstream: Upstream,
    process: Running,
    _postgres: Option<Postgres>,
    _dir: TempDir,
}

/// How upstream is reached. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Upstream {
    grpc: String,
    metrics: String,
    http: reqwest::Client,
}

impl Installation {
    pub async fn start(options: &Options) -> anyhow::Result<Self> {
        // A second installation in one process answers with an error that means nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = TempDir::with_prefix("countersign-unconfirmed-")?;
        let rabbitmq = RabbitMq::start(dir.path()).await?;
        let postgres = match options.database {
            Database::Postgres => Some(Postgres::start(dir.path()).await?),
            Database::Sqlite => None,
        };
        let database = match &postgres {
            Some(postgres) => postgres.create_database("upstream").await?,
            None => format!("sqlite://{}?mode=rwc", dir.path().join("upstream.db").display()),
        };
        let (grpc, http) = (free_port()?, free_port()?);
        let file = dir.path().join("upstream.toml");
        let configuration = configuration(options, &rabbitmq.amqp_url("/"), &database, dir.path(), grpc, http);
        std::fs::write(dir.path().join("topology.toml"), TOPOLOGY)?;
        std::fs::write(&file, configuration)?;
        let program = options.upstream.clone().map_or_else(|| binary("upstream"), Ok)?;
        let log = dir.path().join("upstream.log");
        let process = Program::new(std::path::absolute(program)?).arg("--config").arg(file).log_to(log).spawn()?;
        let upstream = Upstream {
            grpc: format!("http://127.0.0.1:{grpc}"),
            metrics: format!("http://127.0.0.1:{http}"),
            http: reqwest::Client::builder().timeout(ANSWER).no_proxy().build()?,
        };
        wait_until("upstream to be ready", READY, async || !process.is_alive() || upstream.is_ready().await).await?;
        if !process.is_alive() {
            bail!("upstream has ended:\n{}", process.log_text());
        }
        // Queues that were declared a moment ago must outlive the stop of the broker.
        rabbitmq.settle().await?;
        Ok(Self { rabbitmq, upstream, process, _postgres: postgres, _dir: dir })
    }

    /// What the system says of upstream's memory, KiB: `VmRSS` now, `VmHWM` the highest so far.
    pub fn memory(&self, what: &str) -> anyhow::Result<f64> {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.process.pid())).context("reading upstream's memory")?;
        let line = status.lines().find_map(|line| line.strip_prefix(what)).with_context(|| format!("no {what}"))?;
        let kib = line.trim_start_matches(':').trim().trim_end_matches("kB").trim();
        Ok(kib.parse()?)
    }

    /// Stops upstream in good order, then the rest.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.process.terminate()?;
        let status = self.process.wait(READY).await?;
        if !status.success() {
            bail!("upstream ended with {status}:\n{}", self.process.log_text());
        }
        self.rabbitmq.stop().await
    }
}

impl Upstream {
    /// A connection of its own.
    pub async fn client(&self) -> anyhow::Result<UpstreamServiceClient<Channel>> {
        let channel = Endpoint::from_shared(self.grpc.clone())?.timeout(ANSWER).connect().await?;
        Ok(UpstreamServiceClient::new(channel))
    }

    /// How many messages wait to be confirmed, as of its last heartbeat.
    pub async fn unconfirmed(&self) -> anyhow::Result<f64> {
        const NAME: &str = "countersign_unconfirmed_messages ";
        let text = self.http.get(format!("{}/metrics", self.metrics)).send().await?.text().await?;
        let value = text.lines().find_map(|line| line.strip_prefix(NAME)).context("upstream does not say what is unconfirmed")?;
        Ok(value.trim().parse()?)
    }

    async fn is_ready(&self) -> bool {
        let answer = self.http.get(format!("{}/health/ready", self.metrics)).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }
}

const TOPOLOGY: &str = r#"version = 1

[[exchange]]
name = "countersign.messages"
kind = "topic"

[[subscription]]
name = "orders"
bind = [{ exchange = "countersign.messages", routing_key = "order.#" }]
"#;

fn configuration(options: &Options, amqp: &str, database: &str, dir: &Path, grpc: u16, http: u16) -> String {
    let topology = dir.join("topology.toml").display().to_string();
    let max_unconfirmed = options.messages + SPARE;
    format!(
        r#"[broker]
url = {amqp:?}

[topology]
file = {topology:?}
apply = true

[database]
url = {database:?}

[http]
listen = "127.0.0.1:{http}"

[grpc]
listen = "127.0.0.1:{grpc}"

[upstream]
name = "shop"
heartbeat_ms = 100
max_unconfirmed = {max_unconfirmed}
max_outstanding = {max_outstanding}
"#,
        max_outstanding = max_unconfirmed + SPARE
    )
}
