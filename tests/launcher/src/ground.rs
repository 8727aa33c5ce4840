//! The corner of the shared servers that belongs to one test.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context;
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::binary::binary;
use crate::broker::Broker;
use crate::exports::Exports;
use crate::postgres::{create_database, drop_database};
use crate::redis;
use crate::serve::{Keeper, Wanted};

/// Counts the numbered databases given out; lives in database 0, which no test gets.
const REDIS_COUNTER: &str = "countersign:test:ground";
/// What a Redis has that says nothing else.
const REDIS_DATABASES: u32 = 16;

/// A virtual host, a numbered Redis database with a key prefix, `PostgreSQL` databases on demand and a directory of its
/// own. Dropping it gives all of that back; the directory is kept if the test panicked.
#[derive(Debug)]
pub struct Ground {
    name: String,
    dir: Option<TempDir>,
    broker: Broker,
    redis: String,
    postgres: String,
    databases: Mutex<Vec<String>>,
}

impl Ground {
    /// Takes a fresh corner. `test` becomes part of all names, so that a log says whose they are.
    ///
    /// The servers are those of the environment (`with-servers` sets it); if a variable is missing, private ones are
    /// started once for this process.
    ///
    /// # Errors
    /// When servers are missing or refuse.
    pub async fn new(test: &str) -> anyhow::Result<Self> {
        let exports = servers().await?;
        let name = unique_name(test);
        let amqp = exports.amqp.context("no broker")?;
        let admin = exports.amqp_admin.unwrap_or_else(|| usual_admin(&amqp));
        let broker = Broker::new(&amqp, &admin);
        let redis = exports.redis.context("no Redis")?;
        let (redis, ()) = tokio::try_join!(numbered_database(&redis), broker.create_vhost(&name))?;
        let dir = TempDir::with_prefix(format!("{name}-"))?;
        Ok(Self {
            name,
            dir: Some(dir),
            broker,
            redis,
            postgres: exports.postgres.context("no PostgreSQL")?,
            databases: Mutex::default(),
        })
    }

    /// A name nobody else has: lower case letters, digits and `_`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The virtual host, empty at first.
    pub fn vhost(&self) -> &str {
        &self.name
    }

    /// The broker, to ask and to disturb.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// The AMQP address with this test's virtual host.
    pub fn amqp_url(&self) -> String {
        self.broker.amqp_url(&self.name)
    }

    /// How many messages are ready in a queue of this test's virtual host.
    ///
    /// # Errors
    /// As [`Broker::queue_depth`].
    pub async fn queue_depth(&self, queue: &str) -> anyhow::Result<u32> {
        self.broker.queue_depth(&self.name, queue).await
    }

    /// Throws away what is ready in a queue of this test's virtual host.
    ///
    /// # Errors
    /// As [`Broker::purge`].
    pub async fn purge(&self, queue: &str) -> anyhow::Result<u32> {
        self.broker.purge(&self.name, queue).await
    }

    /// `redis://host:port/number`. With more tests than databases a number comes again: use the prefix as well.
    pub fn redis_url(&self) -> &str {
        &self.redis
    }

    /// Has Redis forget all of this test's numbered database.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn empty_redis(&self) -> anyhow::Result<()> {
        redis::command(&self.redis, "FLUSHDB").await.map(drop)
    }

    /// What this test's keys should start with.
    pub fn redis_prefix(&self) -> String {
        format!("{}:", self.name)
    }

    /// Creates an empty `PostgreSQL` database and returns its address.
    ///
    /// # Errors
    /// When the server refuses, or this ground has given out that name before.
    pub async fn database(&self, name: &str) -> anyhow::Result<String> {
        let database = format!("{}_{name}", self.name);
        let url = create_database(&self.postgres, &database).await?;
        self.databases.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(database);
        Ok(url)
    }

    /// The address of a `SQLite` file in this test's directory, created when first opened.
    pub fn sqlite(&self, name: &str) -> String {
        format!("sqlite://{}?mode=rwc", self.path(&format!("{name}.db")).display())
    }

    /// This test's directory.
    pub fn dir(&self) -> &Path {
        self.dir.as_ref().map_or_else(|| Path::new("."), TempDir::path)
    }

    /// A path in this test's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(dir) = self.dir.take()
        {
            eprintln!("files of {} are kept in {}", self.name, dir.keep().display());
        }
        let databases = std::mem::take(&mut *self.databases.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        let (broker, name, postgres) = (self.broker.clone(), self.name.clone(), self.postgres.clone());
        // A thread of its own, because the runtime of the test cannot be blocked from within. What fails here is left to the
        // end of the servers.
        let tidy = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async {
                let _ = broker.delete_vhost(&name).await;
                for database in &databases {
                    let _ = drop_database(&postgres, database).await;
                }
            });
        });
        let _ = tidy.join();
    }
}

/// Addresses from the environment; what is missing there is started, once per process.
async fn servers() -> anyhow::Result<Exports> {
    static OWN: OnceCell<Keeper> = OnceCell::const_new();
    let given = Exports::from_environment();
    let wanted = Wanted { rabbitmq: given.amqp.is_none(), redis: given.redis.is_none(), postgres: given.postgres.is_none() };
    if wanted == Wanted::default() {
        return Ok(given);
    }
    // The pipe to the keeper closes when this process ends, so that a static that is never dropped leaves nothing behind.
    let own = OWN.get_or_try_init(async || Keeper::start(&binary("with-servers")?, wanted, None).await).await?.exports();
    Ok(Exports {
        amqp: given.amqp.or_else(|| own.amqp.clone()),
        amqp_admin: given.amqp_admin.or_else(|| own.amqp_admin.clone()),
        redis: given.redis.or_else(|| own.redis.clone()),
        postgres: given.postgres.or_else(|| own.postgres.clone()),
    })
}

/// The test's name, this process and a counter: at most 63 bytes with a short database name behind, as `PostgreSQL` wants.
fn unique_name(test: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let plain: String = test
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '_' })
        .take(24)
        .collect();
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    // Process ids come again in a long-lived environment; the time of day tells the two apart.
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{plain}_{}_{:x}_{count}", std::process::id(), since.as_millis() % 0x1_0000_0000)
}

/// The management interface of a user's own broker, if it stands where it usually does.
fn usual_admin(amqp: &str) -> String {
    let rest = amqp.split_once("://").map_or(amqp, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let host_from = authority.rfind('@').map_or(0, |at| at + 1);
    let host_to = authority[host_from..].rfind(':').map_or(authority.len(), |at| host_from + at);
    let credentials = if host_from == 0 { "guest:guest@" } else { &authority[..host_from] };
    format!("http://{credentials}{}:15672", &authority[host_from..host_to])
}

async fn numbered_database(url: &str) -> anyhow::Result<String> {
    let (start, _) = url["redis://".len().min(url.len())..].split_once('/').unwrap_or((&url["redis://".len()..], ""));
    let databases = redis::command(url, "CONFIG GET databases").await?;
    let databases = databases.last().and_then(|count| count.parse().ok()).unwrap_or(REDIS_DATABASES).max(2);
    let taken = redis::command(url, &format!("INCR {REDIS_COUNTER}")).await?;
    let taken: u32 = taken.first().context("no number")?.parse()?;
    Ok(format!("redis://{start}/{}", 1 + taken % (databases - 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_own_broker_is_asked_where_management_usually_stands() {
        assert_eq!(usual_admin("amqp://u:p@mq.example:5672/v?heartbeat=1"), "http://u:p@mq.example:15672");
        assert_eq!(usual_admin("amqp://mq.example/%2f"), "http://guest:guest@mq.example:15672");
    }

    #[test]
    fn names_differ_and_are_plain() {
        let (one, other) = (unique_name("Lost receipt!"), unique_name("Lost receipt!"));
        assert_ne!(one, other);
        assert!(one.starts_with("lost_receipt__") && one.len() <= 55, "{one}");
    }
}
