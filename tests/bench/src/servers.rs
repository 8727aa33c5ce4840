//! Private servers of a run, as they would stand in production: everything that was answered is on disk.

use countersign_launcher::{Postgres, PostgresOptions, RabbitMq, Redis, RedisOptions};
use tempfile::TempDir;

/// One of each, which nobody else uses. Dropping it stops them.
pub(crate) struct Servers {
    pub rabbitmq: RabbitMq,
    pub redis: Redis,
    pub postgres: Postgres,
    /// Their files: dropped last.
    pub dir: TempDir,
}

impl Servers {
    /// Starts them: `PostgreSQL` with fsync, Redis with an append-only file that is written through every second.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let dir = TempDir::with_prefix("countersign-bench-")?;
        let kept = RedisOptions { appendonly: true, ..RedisOptions::default() };
        let (rabbitmq, redis, postgres) = tokio::try_join!(
            RabbitMq::start(dir.path()),
            Redis::start_with(dir.path(), kept),
            Postgres::start_with(dir.path(), PostgresOptions { fsync: true }),
        )?;
        redis.command("CONFIG SET appendfsync everysec").await?;
        Ok(Self { rabbitmq, redis, postgres, dir })
    }
}
