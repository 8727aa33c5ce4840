//! The three services and a business service behind them, wired together on given servers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::front::Front;
use crate::look::{Effects, Look};
use crate::{Program, Running, binary, free_port, wait_until};

/// How long a service may take from its start until it is ready, on a busy machine.
const READY: Duration = Duration::from_mins(1);
/// How long a service may take to stop when asked.
const STOP: Duration = Duration::from_secs(30);
/// The one subscription of this system, and its work queue.
pub const SUBSCRIPTION: &str = "inventory.orders";
/// The exchange that orders are sent to.
pub const EXCHANGE: &str = "orders";
/// What binds the one to the other.
pub const BINDING: &str = "order.created.#";

/// One of the services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Which {
    /// Stores and publishes.
    Upstream,
    /// Delivers to the business service.
    Downstream,
    /// Compares and orders resends.
    Callback,
    /// A second upstream: the same name and database, its own address. Only with [`Extras::replica`].
    Replica,
}

impl Which {
    /// The three services, in the order in which they are started.
    pub const ALL: [Self; 3] = [Self::Callback, Self::Downstream, Self::Upstream];
    /// The same with a second upstream.
    pub const REPLICATED: [Self; 4] = [Self::Callback, Self::Downstream, Self::Upstream, Self::Replica];
    /// Both upstreams.
    pub const UPSTREAMS: [Self; 2] = [Self::Upstream, Self::Replica];

    /// Its name in words, and of its configuration and log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Downstream => "downstream",
            Self::Callback => "callback",
            Self::Replica => "replica",
        }
    }

    /// The name of the binary.
    #[must_use]
    pub const fn binary(self) -> &'static str {
        match self {
            Self::Replica => Self::Upstream.name(),
            other => other.name(),
        }
    }
}

/// Where the servers are, and how patient the services shall be.
#[derive(Clone, Debug)]
pub struct Wiring {
    /// Configuration, logs and the business service's database go here.
    pub dir: PathBuf,
    /// The broker, with virtual host.
    pub amqp: String,
    /// Redis, with database.
    pub redis: String,
    /// Upstream's database.
    pub upstream_database: String,
    /// MSG DB.
    pub callback_database: String,
    /// Receipts and checks per message of the broker; 1 is the plain scheme.
    pub max_batch: u32,
    /// From the publish to the first look, milliseconds; everything else is derived from it.
    pub check_delay_ms: u64,
    /// `count` or `idempotent`, see the order handler.
    pub handler_mode: &'static str,
    /// Where traces go, if anywhere.
    pub otlp: Option<String>,
}

/// What is added to, or put in the place of, what [`System`] has of its own.
#[derive(Clone, Debug, Default)]
pub struct Extras {
    /// More of the topology file: further subscriptions.
    pub topology: String,
    /// More keys of the one subscription, such as `max_length`.
    pub subscription: String,
    /// More keys of upstream's section.
    pub upstream: String,
    /// More keys of downstream's section.
    pub downstream: String,
    /// More keys of callback's section.
    pub callback: String,
    /// More keys of every service's section `[broker]`.
    pub broker: String,
    /// Where downstream delivers to, instead of the order handler.
    pub endpoint: Option<String>,
    /// A second upstream on the same database, which cannot be `SQLite`. Callback reaches the two at one address, in turn.
    pub replica: bool,
}

/// The wired services. Dropping it kills what still runs.
#[derive(Debug)]
pub struct System {
    wiring: Wiring,
    extras: Extras,
    ports: BTreeMap<(Which, &'static str), u16>,
    running: BTreeMap<Which, Running>,
    handler: Running,
    look: Look,
    /// Before both upstreams, when there are two.
    front: Option<Front>,
}

impl System {
    /// Starts the business service and writes topology and configuration; starts none of the services.
    ///
    /// # Errors
    /// When a binary is missing, or a port or file is not to be had.
    pub async fn prepare(wiring: Wiring) -> anyhow::Result<Self> {
        Self::prepare_with(wiring, Extras::default()).await
    }

    /// As [`Self::prepare`], with extras.
    ///
    /// # Errors
    /// When a binary is missing, or a port or file is not to be had.
    pub async fn prepare_with(wiring: Wiring, extras: Extras) -> anyhow::Result<Self> {
        if extras.replica && wiring.upstream_database.starts_with("sqlite") {
            bail!("two upstreams cannot share a SQLite database: give them one of PostgreSQL");
        }
        // A second installation in one process answers with an error that means nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let handler = Program::new(binary("order-handler")?)
            .arg("--database")
            .arg(wiring.dir.join("orders.db"))
            .args(["--mode", wiring.handler_mode])
            .log_to(wiring.dir.join("order-handler.log"))
            .spawn()?;
        let line = handler.wait_for_log("listening on ", READY).await?;
        let handler_url = format!("http://{}", line.trim_start_matches("listening on "));
        let mut ports = BTreeMap::new();
        for which in Which::REPLICATED {
            ports.insert((which, "grpc"), free_port()?);
            ports.insert((which, "http"), free_port()?);
        }
        let services = Which::REPLICATED.map(|which| (which, format!("http://127.0.0.1:{}", ports[&(which, "http")])));
        let look = Look::new(handler_url, services.into())?;
        let front = if extras.replica {
            let replicas = Which::UPSTREAMS.map(|which| loopback(ports[&(which, "grpc")]));
            Some(Front::before(replicas.into()).await?)
        } else {
            None
        };
        let system = Self { wiring, extras, ports, running: BTreeMap::new(), handler, look, front };
        std::fs::write(system.topology_file(), system.topology())?;
        for which in Which::REPLICATED.into_iter().filter(|which| *which != Which::Replica || system.extras.replica) {
            std::fs::write(system.wiring.dir.join(format!("{}.toml", which.name())), system.configuration(which))?;
        }
        Ok(system)
    }

    /// Takes the endpoint out of downstream's configuration: the handler is in the program that is started in its place.
    ///
    /// # Errors
    /// When the file cannot be rewritten.
    pub fn handled_in_process(&self) -> anyhow::Result<()> {
        let file = self.wiring.dir.join("downstream.toml");
        let text = std::fs::read_to_string(&file)?;
        let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("endpoint = ")).collect();
        Ok(std::fs::write(&file, kept.join("\n"))?)
    }

    /// The topology file that the services read.
    #[must_use]
    pub fn topology_file(&self) -> PathBuf {
        self.wiring.dir.join("topology.toml")
    }

    /// Starts a service and waits until it is ready. `failpoints` as the variable FAILPOINTS takes them; empty: none.
    ///
    /// # Errors
    /// When it is not ready in time; the end of its log is quoted.
    pub async fn start(&mut self, which: Which, failpoints: &str) -> anyhow::Result<()> {
        self.spawn(which, failpoints)?;
        self.ready(which).await
    }

    /// Starts a service without waiting for it.
    ///
    /// # Errors
    /// When its binary is missing.
    pub fn spawn(&mut self, which: Which, failpoints: &str) -> anyhow::Result<()> {
        self.spawn_as(which, which.binary(), failpoints)
    }

    /// Starts another program in the place of a service, with that service's configuration: one that embeds it.
    ///
    /// # Errors
    /// When its binary is missing.
    pub fn spawn_as(&mut self, which: Which, name: &str, failpoints: &str) -> anyhow::Result<()> {
        let program = Program::new(binary(name)?)
            .arg("--config")
            .arg(self.wiring.dir.join(format!("{}.toml", which.name())))
            .env("FAILPOINTS", failpoints)
            .env("RUST_BACKTRACE", "1")
            .current_dir(&self.wiring.dir)
            .log_to(self.wiring.dir.join(format!("{}.log", which.name())));
        self.running.insert(which, program.spawn()?);
        Ok(())
    }

    /// Waits until a service says that it is ready.
    ///
    /// # Errors
    /// When it is not ready in time, or has ended; the end of its log is quoted.
    pub async fn ready(&self, which: Which) -> anyhow::Result<()> {
        let process = self.process(which)?;
        let what = format!("{} to be ready", which.name());
        let ready = wait_until(&what, READY, async || !process.is_alive() || self.look.is_ready(which).await);
        ready.await.with_context(|| process.log_tail())?;
        if process.is_alive() { Ok(()) } else { bail!("{} has ended{}", which.name(), process.log_tail()) }
    }

    /// The running process of a service.
    ///
    /// # Errors
    /// When it was not started.
    pub fn process(&self, which: Which) -> anyhow::Result<&Running> {
        self.running.get(&which).with_context(|| format!("{} was not started", which.name()))
    }

    /// Waits until a service has killed itself at the failpoint it was started with.
    ///
    /// # Errors
    /// When it lives on, or ended without hitting it.
    pub async fn dies_at(&mut self, which: Which, failpoint: &str, timeout: Duration) -> anyhow::Result<()> {
        let process = self.process(which)?;
        let status = process.wait(timeout).await?;
        let said = format!("failpoint hit: {failpoint}");
        if !process.log_text().contains(&said) {
            bail!("{} ended ({status}) but never said {said:?}{}", which.name(), process.log_tail());
        }
        self.running.remove(&which);
        Ok(())
    }

    /// Hands a service's process over; what becomes of it is the caller's business from now on.
    pub fn release(&mut self, which: Which) -> Option<Running> {
        self.running.remove(&which)
    }

    /// Sends callback's calls to one of two upstreams first, by new connections. Without [`Extras::replica`] nothing happens.
    pub fn route_to(&self, which: Which) {
        if let Some(front) = &self.front {
            front.prefer(loopback(self.ports[&(which, "grpc")]));
        }
    }

    /// SIGKILL.
    pub fn kill9(&mut self, which: Which) {
        self.running.remove(&which);
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// When it does not end in time, or not with success.
    pub async fn stop(&mut self, which: Which) -> anyhow::Result<()> {
        let Some(process) = self.running.remove(&which) else { return Ok(()) };
        process.terminate()?;
        let status = process.wait(STOP).await?;
        if status.success() { Ok(()) } else { bail!("{} ended with {status}{}", which.name(), process.log_tail()) }
    }

    /// The gRPC address of a service.
    #[must_use]
    pub fn grpc_url(&self, which: Which) -> String {
        format!("http://127.0.0.1:{}", self.ports[&(which, "grpc")])
    }

    /// The HTTP address of a service.
    #[must_use]
    pub fn http_url(&self, which: Which) -> String {
        self.look.service_url(which).to_owned()
    }

    /// What can be asked of the services and the business service, whoever starts and kills them meanwhile.
    #[must_use]
    pub fn look(&self) -> &Look {
        &self.look
    }

    /// See [`Look::metric`]; over all labels.
    ///
    /// # Errors
    /// As there.
    pub async fn metric(&self, which: Which, name: &str) -> anyhow::Result<f64> {
        self.look.metric(which, name, "").await
    }

    /// What the business service's own database says.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn effects(&self) -> anyhow::Result<Effects> {
        if !self.handler.is_alive() {
            bail!("the order handler has ended{}", self.handler.log_tail());
        }
        self.look.effects().await
    }

    /// Makes the business service fail or dawdle; see `order-handler`.
    ///
    /// # Errors
    /// When it does not take the wish.
    pub async fn behave(&self, wish: &serde_json::Value) -> anyhow::Result<()> {
        self.look.behave(wish).await
    }

    /// All that a service has logged, over all its lives.
    ///
    /// # Errors
    /// When it was never started.
    pub fn log_of(&self, which: Which) -> anyhow::Result<String> {
        let log = self.wiring.dir.join(format!("{}.log", which.name()));
        let bytes = std::fs::read(&log).with_context(|| format!("{} cannot be read", log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The retry tiers of the one subscription, milliseconds; the queue of each is `<subscription>.retry.<delay>`.
    #[must_use]
    pub fn retry_delays_ms(&self) -> [u64; 2] {
        [self.wiring.check_delay_ms / 4, self.wiring.check_delay_ms / 2]
    }

    fn topology(&self) -> String {
        let delay = self.wiring.check_delay_ms;
        let rechecks = [delay / 2, delay, delay * 2];
        let retries = self.retry_delays_ms();
        let Extras { topology: more, subscription, .. } = &self.extras;
        format!(
            r#"version = 1
checks = {{ check_delay_ms = {delay}, recheck_delays_ms = {rechecks:?} }}

[[exchange]]
name = "{EXCHANGE}"
kind = "topic"

[[subscription]]
name = "{SUBSCRIPTION}"
retry_delays_ms = {retries:?}
{subscription}
bind = [{{ exchange = "{EXCHANGE}", routing_key = "{BINDING}" }}]

{more}"#
        )
    }

    fn configuration(&self, which: Which) -> String {
        let Wiring { amqp, otlp, .. } = &self.wiring;
        let topology = self.topology_file().display().to_string();
        let (http, grpc) = (self.ports[&(which, "http")], self.ports[&(which, "grpc")]);
        let mut sections = vec![
            format!("[broker]\nurl = {amqp:?}\n{}\n", self.extras.broker),
            format!("[topology]\nfile = {topology:?}\napply = true\n"),
            format!("[http]\nlisten = \"127.0.0.1:{http}\"\n"),
            format!("[grpc]\nlisten = \"127.0.0.1:{grpc}\"\n"),
        ];
        if let Some(otlp) = otlp {
            sections.push(format!("[traces]\notlp_endpoint = {otlp:?}\nsample_ratio = 1.0\n"));
        }
        sections.push(match which {
            Which::Upstream | Which::Replica => self.upstream_section(),
            Which::Downstream => self.downstream_section(),
            Which::Callback => self.callback_section(),
        });
        sections.join("\n")
    }

    fn upstream_section(&self) -> String {
        let Wiring { upstream_database: database, max_batch, check_delay_ms: delay, .. } = &self.wiring;
        let (heartbeat, lease) = (delay / 5, delay * 2);
        let (policy, more) = (self.policy_section(), &self.extras.upstream);
        format!(
            r#"[database]
url = {database:?}

[upstream]
name = "shop"
max_batch = {max_batch}
heartbeat_ms = {heartbeat}
lease_ms = {lease}
handler_timeout_ms = 30000
handler_lease_ms = {lease}
{more}

{policy}"#
        )
    }

    fn downstream_section(&self) -> String {
        let Wiring { redis, max_batch, check_delay_ms: delay, .. } = &self.wiring;
        let (lease, progress, answer) = (delay * 2, delay / 2, delay);
        let endpoint = self.extras.endpoint.clone().unwrap_or_else(|| format!("{}/orders", self.look.handler_url()));
        format!(
            r#"[redis]
url = {redis:?}
response_timeout_ms = {answer}

[downstream]
max_batch = {max_batch}
lease_ms = {lease}
progress_after_ms = {progress}
{more}

[[downstream.subscription]]
name = "{SUBSCRIPTION}"
endpoint = {endpoint:?}

{policy}"#,
            policy = self.policy_section(),
            more = self.extras.downstream,
        )
    }

    fn callback_section(&self) -> String {
        let Wiring { callback_database: database, max_batch, check_delay_ms: delay, .. } = &self.wiring;
        let upstream = match &self.front {
            Some(front) => format!("http://{}", front.address()),
            None => self.grpc_url(Which::Upstream),
        };
        let (deadline, policy, more) = (delay * 3 / 2, self.policy_section(), &self.extras.callback);
        format!(
            "[database]
url = {database:?}

[callback]
max_batch = {max_batch}
sweep_interval_ms = {delay}
call_deadline_ms = {deadline}
upstream_template = {upstream:?}
{more}

{policy}"
        )
    }

    /// The same for callback, and for the others, which compute from it how long they must remember.
    fn policy_section(&self) -> String {
        let delay = self.wiring.check_delay_ms;
        let (lease, grace) = (delay * 2, delay * 3 / 2);
        let (spacing, replace, unprobed, overdue) = (delay / 5, delay * 2, delay * 3, delay * 6);
        format!(
            "[policy]
resend_lease_ms = {lease}
probe_grace_ms = {grace}
probe_spacing_ms = {spacing}
probe_replace_ms = {replace}
unprobed_timeout_ms = {unprobed}
overdue_ms = {overdue}
"
        )
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
