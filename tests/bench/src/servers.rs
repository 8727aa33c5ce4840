//! Private servers of a run, as they would stand in production: everything that was answered is on disk.

use countersign_launcher::{Postgres, PostgresOptions, RabbitMq, Redis, RedisOptions};
use tempfile::TempDir;

use crate::raw;

/// `PostgreSQL` writes every commit through.
pub(crate) const DURABLE: PostgresOptions = PostgresOptions { fsync: true, statements: false };

/// One of each, which nobody else uses. Dropping it stops them.
pub(crate) struct Servers {
    pub rabbitmq: RabbitMq,
    pub redis: Redis,
    pub postgres: Postgres,
    /// Their files: dropped last.
    pub dir: TempDir,
}

impl Servers {
    /// Starts them: `PostgreSQL` with fsync, Redis as `deploy/redis/redis.conf` has it.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        Self::start_with(DURABLE).await
    }

    /// As [`Self::start`], with another `PostgreSQL`.
    pub(crate) async fn start_with(options: PostgresOptions) -> anyhow::Result<Self> {
        let dir = TempDir::with_prefix("countersign-bench-")?;
        let kept = RedisOptions { appendonly: true, ..RedisOptions::default() };
        let (rabbitmq, redis, postgres) = tokio::try_join!(
            RabbitMq::start(dir.path()),
            Redis::start_with(dir.path(), kept),
            Postgres::start_with(dir.path(), options),
        )?;
        redis.command("CONFIG SET appendfsync everysec auto-aof-rewrite-min-size 512mb").await?;
        Ok(Self { rabbitmq, redis, postgres, dir })
    }

    /// Messages a second that the broker alone takes and gives, of the sizes asked for.
    pub(crate) async fn raw(&self, messages: u32, body_bytes: usize) -> anyhow::Result<f64> {
        const VHOST: &str = "raw";
        self.rabbitmq.create_vhost(VHOST).await?;
        Ok(raw::run(&self.rabbitmq.amqp_url(VHOST), messages, body_bytes, None).await?.per_second())
    }
}
