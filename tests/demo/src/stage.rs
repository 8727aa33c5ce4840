//! The servers and services that the demo plays on.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use countersign_launcher::{Broker, Program, RabbitMq, Redis, Running, System, Which, Wiring, binary};
use tempfile::TempDir;

/// The vhost of the demo on a private broker.
const VHOST: &str = "demo";

/// Orders flow, the broker loses some of them, and every one is processed.
#[derive(Debug, Parser)]
#[command(name = "demo")]
pub struct Options {
    /// How many orders.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(200..=100_000))]
    pub orders: u32,
    /// From the publish of a message to its check, milliseconds. Two minutes in production; shorter here, so that you can watch.
    #[arg(long, default_value_t = 3_000, value_parser = clap::value_parser!(u64).range(500..=120_000))]
    pub check_delay_ms: u64,
    /// A broker of your own, with virtual host: amqp://user:password@host:port/vhost. The demo purges a queue in it.
    #[arg(long)]
    pub amqp_url: Option<String>,
    /// A Redis of your own.
    #[arg(long)]
    pub redis_url: Option<String>,
    /// Give up after so many seconds.
    #[arg(long, default_value_t = 240)]
    pub patience_s: u64,
}

/// What is running. Dropping it ends everything the demo started.
pub struct Stage {
    /// The three services and the shop's own order handler.
    pub system: System,
    /// The broker, to disturb it.
    pub broker: Broker,
    /// The virtual host in it.
    pub vhost: String,
    _rabbitmq: Option<RabbitMq>,
    _redis: Option<Redis>,
    dir: TempDir,
}

impl Stage {
    /// Starts servers (unless addresses are given) and wires the services to them.
    pub async fn set(options: &Options) -> anyhow::Result<Self> {
        let dir = TempDir::with_prefix("countersign-demo-")?;
        let rabbitmq = match options.amqp_url {
            Some(_) => None,
            None => Some(RabbitMq::start(&dir.path().join("rabbitmq")).await.context("starting a private RabbitMQ")?),
        };
        let redis = match options.redis_url {
            Some(_) => None,
            None => Some(Redis::start(&dir.path().join("redis")).await.context("starting a private Redis")?),
        };
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
            handler_mode: "count",
            otlp: None,
        };
        let mut system = System::prepare(wiring).await?;
        for which in Which::ALL {
            system.start(which, "").await?;
        }
        Ok(Self { system, broker, vhost, _rabbitmq: rabbitmq, _redis: redis, dir })
    }

    /// Writes so many orders to a file, one JSON object a line.
    pub fn write_orders(&self, orders: u32) -> anyhow::Result<std::path::PathBuf> {
        let file = self.dir.path().join("orders.jsonl");
        let line = |order| format!("{{\"order_id\":\"A-{order}\",\"article\":{},\"pieces\":{}}}\n", order % 97, 1 + order % 5);
        std::fs::write(&file, (1..=orders).map(line).collect::<String>())?;
        Ok(file)
    }

    /// Starts `countersign send --file`, as a user would.
    pub fn send(&self, file: &Path) -> anyhow::Result<Running> {
        Program::new(binary("countersign")?)
            .args(["--upstream", &self.system.grpc_url(Which::Upstream), "-o", "json"])
            .args(["send", "--exchange", "orders", "--type", "order.created", "--id-field", "order_id", "--file"])
            .arg(file)
            .log_to(self.dir.path().join("send.log"))
            .spawn()
    }

    /// Asks the services to stop and waits for them.
    pub async fn clear(mut self) -> anyhow::Result<()> {
        for which in [Which::Upstream, Which::Downstream, Which::Callback] {
            self.system.stop(which).await?;
        }
        Ok(())
    }
}

/// How long the demo may take as a whole.
pub const fn patience(options: &Options) -> Duration {
    Duration::from_secs(options.patience_s)
}

fn vhost_of(url: &str) -> String {
    let path = url.split("://").nth(1).and_then(|rest| rest.split_once('/')).map_or("", |(_, path)| path);
    let vhost = path.split('?').next().unwrap_or_default();
    if vhost.is_empty() || vhost.eq_ignore_ascii_case("%2f") { "/".to_owned() } else { vhost.to_owned() }
}
