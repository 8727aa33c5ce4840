//! The servers and services of one run: all of them its own, so that it may kill them.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use countersign_launcher::{Broker, Extras, Look, Postgres, RabbitMq, Redis, Running, System, Which, Wiring, wait_until};
use tempfile::TempDir;

/// From the publish to the first look, milliseconds; leases, probes and retries are derived from it.
const CHECK_DELAY_MS: u64 = 1_000;
/// How long an upstream's heartbeat must stand still before it is adopted: what [`System`] derives from the check delay.
pub const LEASE: Duration = Duration::from_millis(2 * CHECK_DELAY_MS);
/// How long a service may take to be ready, broker and all, while everything else is disturbed.
pub const READY: Duration = Duration::from_mins(2);
/// How long a service may take to stop when asked.
const STOP: Duration = Duration::from_mins(1);
/// The virtual host of the run.
pub const VHOST: &str = "chaos";

/// What is running. Dropping it ends everything the run started.
#[derive(Debug)]
pub struct Stage {
    /// The services; held only for as long as a signal or a start takes.
    system: Mutex<System>,
    /// What can be asked from outside.
    pub look: Look,
    /// The broker, to disturb it.
    pub broker: Broker,
    /// The broker as a process.
    pub rabbitmq: tokio::sync::Mutex<RabbitMq>,
    /// Upstream's database.
    pub upstream_database: String,
    /// MSG DB.
    pub callback_database: String,
    _postgres: Postgres,
    _redis: Redis,
    dir: TempDir,
}

impl Stage {
    /// Starts servers and services.
    ///
    /// # Errors
    /// When a server or binary is missing, or does not come up.
    pub async fn set() -> anyhow::Result<Self> {
        let dir = TempDir::with_prefix("countersign-chaos-")?;
        let at = dir.path();
        let (rabbitmq, redis, postgres) = tokio::try_join!(RabbitMq::start(at), Redis::start(at), Postgres::start(at))?;
        rabbitmq.create_vhost(VHOST).await?;
        let upstream_database = postgres.create_database("upstream").await?;
        let callback_database = postgres.create_database("msg").await?;
        let wiring = Wiring {
            dir: at.to_owned(),
            amqp: rabbitmq.amqp_url(VHOST),
            redis: redis.url(),
            upstream_database: upstream_database.clone(),
            callback_database: callback_database.clone(),
            max_batch: 256,
            check_delay_ms: CHECK_DELAY_MS,
            handler_mode: "count",
            otlp: None,
        };
        let mut system = System::prepare_with(wiring, Extras { replica: true, ..Extras::default() }).await?;
        for which in Which::REPLICATED {
            system.start(which, "").await?;
        }
        // The queues are new, and the broker writes its list of queues late.
        rabbitmq.settle().await?;
        Ok(Self {
            look: system.look().clone(),
            system: Mutex::new(system),
            broker: rabbitmq.broker().clone(),
            rabbitmq: rabbitmq.into(),
            upstream_database,
            callback_database,
            _postgres: postgres,
            _redis: redis,
            dir,
        })
    }

    /// The services, for one short act.
    pub fn with<T>(&self, act: impl FnOnce(&mut System) -> T) -> T {
        act(&mut self.system.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Starts a service that does not run, and waits until it is ready or has ended, which its failpoint may bring about.
    ///
    /// # Errors
    /// When it is neither in time.
    pub async fn start(&self, which: Which, failpoints: &str) -> anyhow::Result<()> {
        self.with(|system| system.spawn(which, failpoints))?;
        self.ready(which).await
    }

    /// Waits until a service is ready or has ended.
    ///
    /// # Errors
    /// When it is neither in time; the end of its log is quoted.
    pub async fn ready(&self, which: Which) -> anyhow::Result<()> {
        let what = format!("{} to be ready", which.name());
        let ready = wait_until(&what, READY, async || !self.is_alive(which) || self.look.is_ready(which).await);
        ready.await.with_context(|| self.tail(which))
    }

    /// Whether a service runs, or stands still by SIGSTOP.
    pub fn is_alive(&self, which: Which) -> bool {
        self.with(|system| system.process(which).is_ok_and(Running::is_alive))
    }

    /// What this life of a service has logged.
    pub fn log_text(&self, which: Which) -> String {
        self.with(|system| system.process(which).map(Running::log_text).unwrap_or_default())
    }

    /// SIGTERM, and waits for the end; whether it ended with success.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn stop(&self, which: Which) -> anyhow::Result<bool> {
        let Some(process) = self.with(|system| system.release(which)) else { bail!("{} does not run", which.name()) };
        // One that ends by its failpoint in this very moment has ended too.
        let asked = process.terminate();
        let status = process.wait(STOP).await.with_context(|| format!("stopping {}", which.name()))?;
        Ok(asked.is_ok() && status.success())
    }

    /// The end of a service's log, for an error message.
    pub fn tail(&self, which: Which) -> String {
        const LINES: usize = 40;
        let text = self.log_of(which);
        let lines: Vec<_> = text.lines().collect();
        format!("the end of the log of {}:\n    {}", which.name(), lines[lines.len().saturating_sub(LINES)..].join("\n    "))
    }

    /// All that a service has logged, over all its lives; empty if it never lived.
    pub fn log_of(&self, which: Which) -> String {
        self.with(|system| system.log_of(which)).unwrap_or_default()
    }

    /// The gRPC address of a service.
    pub fn grpc_url(&self, which: Which) -> String {
        self.with(|system| system.grpc_url(which))
    }

    /// The file of the handler's own database.
    pub fn handler_database(&self) -> PathBuf {
        self.dir.path().join("orders.db")
    }

    /// Keeps logs and databases for a look, and says where they are.
    pub fn keep(&mut self) -> &Path {
        self.dir.disable_cleanup(true);
        self.dir.path()
    }
}
