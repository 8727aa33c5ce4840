//! The servers and services that the demo plays on.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use countersign_launcher::{Broker, RabbitMq, Redis, System, Which, Wiring};
use tempfile::TempDir;

use crate::options::Options;

/// The vhost of the demo on a private broker.
const VHOST: &str = "demo";
/// The shop needs so long for one order, milliseconds.
pub const HANDLING_MS: u64 = 20;

/// What is running. Dropping it ends everything the demo started.
pub struct Stage {
    /// The three services and the shop's own order handler.
    pub system: System,
    /// The broker, to disturb it.
    pub broker: Broker,
    /// The virtual host in it.
    pub vhost: String,
    /// The broker as a process; none if it is the user's.
    pub rabbitmq: Option<RabbitMq>,
    _redis: Option<Redis>,
    dir: TempDir,
}

impl Stage {
    /// Starts servers (unless addresses are given) and wires the services to them; starts none of the services.
    ///
    /// # Errors
    /// When a server or binary is missing, or does not come up.
    pub async fn set(options: &Options) -> anyhow::Result<Self> {
        let dir = TempDir::with_prefix("countersign-demo-")?;
        let (rabbitmq, redis) = tokio::try_join!(private_broker(options, dir.path()), private_redis(options, dir.path()))?;
        let (amqp, vhost) = match (&options.amqp_url, &rabbitmq) {
            (Some(url), _) => (url.clone(), vhost_of(url)),
            (None, Some(rabbitmq)) => {
                rabbitmq.create_vhost(VHOST).await?;
                (rabbitmq.amqp_url(VHOST), VHOST.to_owned())
            }
            (None, None) => unreachable!("a broker was either given or started"),
        };
        let broker = rabbitmq.as_ref().map_or_else(|| Broker::new(&amqp, ""), |rabbitmq| rabbitmq.broker().clone());
        let redis_url = options.redis_url.clone().or_else(|| redis.as_ref().map(Redis::url)).unwrap_or_default();
        let sqlite = |name: &str| format!("sqlite://{}", dir.path().join(name).display());
        let wiring = Wiring {
            dir: dir.path().to_owned(),
            amqp,
            redis: redis_url,
            upstream_database: sqlite("upstream.db"),
            callback_database: sqlite("msg.db"),
            max_batch: 256,
            check_delay_ms: options.check_delay_ms,
            handler_mode: "idempotent",
            otlp: None,
        };
        let system = System::prepare(wiring).await?;
        Ok(Self { system, broker, vhost, rabbitmq, _redis: redis, dir })
    }

    /// Where files of the demo go; gone with it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Keeps the files of servers and services for a look, and says where they are.
    pub fn keep(&mut self) -> PathBuf {
        self.dir.disable_cleanup(true);
        self.dir.path().to_owned()
    }

    /// Asks the services to stop and waits for them.
    ///
    /// # Errors
    /// When one does not end in time, or not with success.
    pub async fn clear(mut self) -> anyhow::Result<()> {
        for which in [Which::Upstream, Which::Downstream, Which::Callback] {
            self.system.stop(which).await?;
        }
        Ok(())
    }
}

async fn private_broker(options: &Options, dir: &Path) -> anyhow::Result<Option<RabbitMq>> {
    if options.amqp_url.is_some() {
        return Ok(None);
    }
    RabbitMq::start(dir).await.context("starting a private RabbitMQ").map(Some)
}

async fn private_redis(options: &Options, dir: &Path) -> anyhow::Result<Option<Redis>> {
    if options.redis_url.is_some() {
        return Ok(None);
    }
    Redis::start(dir).await.context("starting a private Redis").map(Some)
}

fn vhost_of(url: &str) -> String {
    let path = url.split("://").nth(1).and_then(|rest| rest.split_once('/')).map_or("", |(_, path)| path);
    let vhost = path.split('?').next().unwrap_or_default();
    if vhost.is_empty() || vhost.eq_ignore_ascii_case("%2f") { "/".to_owned() } else { vhost.to_owned() }
}
