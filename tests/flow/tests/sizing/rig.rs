//! Servers of a round's own, the services wired to them, and how many bytes each server keeps.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use countersign_flow::{Flow, PATIENCE};
use countersign_launcher::{Extras, Ground, Postgres, RabbitMq, Redis, System, Wiring, wait_until};
use sea_orm::{ConnectionTrait as _, DatabaseConnection, DbBackend, Statement};
use tempfile::TempDir;
use tokio::time::Instant;

/// So long that no check comes due while its tier is measured; heartbeats, a fifth of it, allow no more.
pub const CHECK_DELAY_MS: u64 = 300_000;
/// Enough handlers at a time to be done soon.
const DOWNSTREAM: &str = "concurrency = 64\nprefetch = 256";
/// A directory that has kept its size for so long is written to no more: the broker's own tick is 5 s.
const QUIET: Duration = Duration::from_secs(6);
/// `du` counts in such blocks.
const BLOCK_BYTES: u64 = 512;
/// Has the quorum queues' common log written into their segments and begun anew, as happens by itself whenever it is full.
const ROLL_OVER: &str = "ra_log_wal:force_roll_over(maps:get(wal, maps:get(names, ra_system:fetch(quorum_queues)))).";
/// What the broker's ticks have counted; `list_queues` tells no bytes of quorum queues.
const QUEUES: &str = "[{Name, proplists:get_value(messages_persistent, Told), proplists:get_value(message_bytes, Told), \
                      proplists:get_value(memory, Told)} || {{resource, _, queue, Name}, Told, _} <- ets:tab2list(queue_metrics)].";
/// Bytes that the server has ever written to its write-ahead log.
pub const WAL: &str = "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint AS value";

/// One queue as the broker counts it.
#[derive(Clone, Copy, Debug)]
pub struct Queue {
    /// Ready or handed out.
    pub messages: i64,
    /// Of their bodies.
    pub bytes: i64,
    /// Bytes of memory.
    pub memory: i64,
}

/// The servers, and the services wired to them.
pub struct Rig {
    pub flow: Flow,
    pub broker: RabbitMq,
    redis: Redis,
    _postgres: Postgres,
    /// The servers' files: drop it last.
    _dir: TempDir,
}

impl Rig {
    /// Starts servers and wires the services to them; starts none of the services.
    pub async fn new() -> anyhow::Result<Self> {
        let dir = TempDir::new()?;
        let (broker, redis, postgres) =
            tokio::try_join!(RabbitMq::start(dir.path()), Redis::start(dir.path()), Postgres::start(dir.path()))?;
        let ground = Ground::new("sizing").await?;
        let wiring = Wiring {
            dir: ground.dir().to_owned(),
            amqp: broker.amqp_url("/"),
            redis: redis.url(),
            upstream_database: postgres.create_database("up").await?,
            callback_database: postgres.create_database("msg").await?,
            max_batch: 256,
            check_delay_ms: CHECK_DELAY_MS,
            handler_mode: "count",
            otlp: None,
        };
        let extras = Extras { downstream: DOWNSTREAM.into(), ..Extras::default() };
        let flow = Flow { system: System::prepare_with(wiring, extras).await?, ground };
        Ok(Self { flow, broker, redis, _postgres: postgres, _dir: dir })
    }

    /// What the broker's directory takes on disk once it is written to no more; its log is rolled over first, or not.
    pub async fn broker_bytes(&self, roll_over: bool) -> anyhow::Result<i64> {
        if roll_over {
            self.broker.ctl(&["eval", ROLL_OVER]).await?;
        }
        let (mut bytes, mut since) = (0, Instant::now());
        wait_until("the broker's directory to keep its size", PATIENCE, async || {
            let Ok(now) = on_disk(&self.broker.data()) else { return false };
            if now != bytes {
                (bytes, since) = (now, Instant::now());
            }
            since.elapsed() >= QUIET
        })
        .await?;
        Ok(i64::try_from(bytes)?)
    }

    /// Every queue by its name, as counted at its latest tick.
    pub async fn queues(&self) -> anyhow::Result<BTreeMap<String, Queue>> {
        let told = self.broker.ctl(&["eval", QUEUES]).await?;
        let queue = |told: &str| {
            let (name, figures) = told.split_once("\">>,")?;
            let mut figures = figures.split(|letter: char| !letter.is_ascii_digit()).filter(|word| !word.is_empty());
            let mut figure = || figures.next()?.parse().ok();
            Some((name.to_owned(), Queue { messages: figure()?, bytes: figure()?, memory: figure()? }))
        };
        told.split("{<<\"").skip(1).map(|queue_told| queue(queue_told).with_context(|| format!("no queue: {told}"))).collect()
    }

    /// Redis' `used_memory`.
    pub async fn redis_bytes(&self) -> anyhow::Result<i64> {
        let told = self.redis.command("INFO memory").await?;
        let used = told.iter().find_map(|line| line.strip_prefix("used_memory:"));
        Ok(used.context("Redis tells no used_memory")?.parse()?)
    }

    /// Stops the services, and asserts that no invariant was violated.
    pub async fn finish(self) -> anyhow::Result<()> {
        self.flow.no_invariant_was_violated()?;
        self.flow.finish().await
    }
}

/// Bytes on disk below this directory. What vanishes meanwhile takes none.
fn on_disk(path: &Path) -> std::io::Result<u64> {
    let metadata = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    let own = metadata.blocks() * BLOCK_BYTES;
    if !metadata.is_dir() {
        return Ok(own);
    }
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    entries.map(|entry| on_disk(&entry?.path())).try_fold(own, |sum, bytes| Ok(sum + bytes?))
}

/// The one whole number, called `value`, that a statement gives.
pub async fn value(database: &DatabaseConnection, sql: &str) -> anyhow::Result<i64> {
    let row = database.query_one_raw(Statement::from_string(DbBackend::Postgres, sql)).await?.context("no row")?;
    Ok(row.try_get("", "value")?)
}

/// Bytes of all tables of this database, with their indexes.
pub async fn tables(database: &DatabaseConnection) -> anyhow::Result<i64> {
    const TABLES: &str = "SELECT COALESCE(SUM(pg_total_relation_size(oid)), 0)::bigint AS value FROM pg_class \
                          WHERE relkind = 'r' AND relname LIKE 'countersign\\_%'";
    value(database, TABLES).await
}
