//! A sender that keeps books of its own, and what they must come to in the end.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use countersign_launcher::{Which, wait_until};
use countersign_wire::proto::SendMessageRequest;
use countersign_wire::proto::upstream_service_client::UpstreamServiceClient;
use sea_orm::{ConnectOptions, ConnectionTrait, DatabaseConnection, DbBackend, Statement};
use tokio::task::{JoinHandle, JoinSet};
use tonic::transport::Endpoint;

use crate::{Flow, PATIENCE, order};

/// Callers of one load.
const CALLERS: u32 = 8;
/// How long one of them waits for its answer: longer than any pause in these tests.
const ANSWER: Duration = Duration::from_secs(40);

/// Of the incarnations that are not closed.
const FEWEST_BEATS: &str = "SELECT CAST(coalesce(min(h.counter), 0) AS text) AS line FROM countersign_incarnation AS i \
                            JOIN countersign_heartbeat AS h ON h.incarnation = i.id WHERE i.state <> 'closed'";

/// What the callers of a load have been told.
#[derive(Clone, Debug, Default)]
pub struct Book {
    /// Answered `COMMITTED` or `CONFIRMED`: promises.
    pub promised: Vec<String>,
    /// Calls that ended with an error or without an answer: stored or not, nobody knows.
    pub unanswered: u32,
}

impl Book {
    /// Adds what others were told.
    pub fn add(&mut self, other: Self) {
        self.promised.extend(other.promised);
        self.unanswered += other.unanswered;
    }
}

/// What upstream's own table says.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Ids of all stored messages.
    pub stored: BTreeSet<String>,
    /// Each incarnation that is not closed, as `state adopter watermark`.
    pub unclosed: Vec<String>,
    /// The fewest beats that one of those has had.
    pub beats: u64,
    /// Incarnations in all.
    pub incarnations: u64,
    /// Places that a lost commit was found not to have taken.
    pub tombstones: u64,
}

impl Flow {
    /// Callers who send these orders one by one to an upstream, under their own idempotency keys, each until its first failure.
    #[must_use]
    pub fn load(&self, which: Which, numbers: Range<u32>) -> JoinHandle<anyhow::Result<Book>> {
        let (url, end) = (self.system.grpc_url(which), numbers.end);
        let next = Arc::new(AtomicU32::new(numbers.start));
        tokio::spawn(async move {
            let mut callers: JoinSet<_> = (0..CALLERS).map(|_| call(url.clone(), next.clone(), end)).collect();
            let mut book = Book::default();
            while let Some(told) = callers.join_next().await {
                book.add(told??);
            }
            Ok(book)
        })
    }

    /// Changes upstream's configuration file (or the replica's) before it is started.
    ///
    /// # Errors
    /// When `section` is not there.
    pub fn configure(&self, which: Which, section: &str, keys: &str) -> anyhow::Result<()> {
        let file = self.ground.path(&format!("{}.toml", which.name()));
        let before = std::fs::read_to_string(&file)?;
        ensure!(before.contains(section), "{} has no {section}", file.display());
        Ok(std::fs::write(&file, before.replace(section, &format!("{section}\n{keys}")))?)
    }

    /// A session in upstream's database.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn upstream_database(&self) -> anyhow::Result<DatabaseConnection> {
        self.database_of(Which::Upstream).await
    }

    /// A session in MSG DB.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn msg_database(&self) -> anyhow::Result<DatabaseConnection> {
        self.database_of(Which::Callback).await
    }

    async fn database_of(&self, which: Which) -> anyhow::Result<DatabaseConnection> {
        let configuration = std::fs::read_to_string(self.ground.path(&format!("{}.toml", which.name())))?;
        let (_, database) = configuration.split_once("[database]").context("no [database]")?;
        let (_, url) = database.split_once("url = \"").context("no url")?;
        let mut options = ConnectOptions::new(url.split('"').next().unwrap_or_default());
        options.max_connections(1).sqlx_logging(false);
        Ok(sea_orm::Database::connect(options).await?)
    }

    /// Waits until a transaction in upstream's `PostgreSQL` database has stood still for so long between two statements.
    ///
    /// # Errors
    /// When none has after [`PATIENCE`].
    pub async fn a_transaction_stands_open_for(&self, time: Duration) -> anyhow::Result<()> {
        let what = format!("a transaction to stand open for {time:?}");
        wait_until(&what, PATIENCE, async || self.standing_open_for(time).await.is_ok_and(|open| open > 0)).await
    }

    /// How many transactions stand still in that database between two statements.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn open_transactions(&self) -> anyhow::Result<u64> {
        self.standing_open_for(Duration::ZERO).await
    }

    async fn standing_open_for(&self, time: Duration) -> anyhow::Result<u64> {
        let database = self.upstream_database().await?;
        let of = format!(
            "pg_stat_activity WHERE state = 'idle in transaction' AND datname = current_database() AND \
             clock_timestamp() - state_change > interval '{} milliseconds'",
            time.as_millis()
        );
        let open = count(&database, &of).await;
        database.close().await?;
        open
    }

    /// What upstream's own table says.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn table(&self) -> anyhow::Result<Table> {
        let database = self.upstream_database().await?;
        let sqlite = database.get_database_backend() == DbBackend::Sqlite;
        let text =
            |column: &str| if sqlite { format!("lower(hex({column}))") } else { format!("replace({column}::text, '-', '')") };
        let stored = format!("SELECT {} AS line FROM countersign_message WHERE id IS NOT NULL", text("id"));
        let unclosed = format!(
            "SELECT i.state || ' ' || coalesce({}, 'nobody') || ' ' || h.watermark AS line FROM countersign_incarnation AS i \
             JOIN countersign_heartbeat AS h ON h.incarnation = i.id WHERE i.state <> 'closed' ORDER BY i.id",
            text("h.adopter")
        );
        let table = Table {
            stored: lines(&database, &stored).await?.iter().map(|id| hyphenated(id)).collect(),
            unclosed: lines(&database, &unclosed).await?,
            beats: number(&database, FEWEST_BEATS).await?,
            incarnations: count(&database, "countersign_incarnation").await?,
            tombstones: count(&database, "countersign_message WHERE id IS NULL").await?,
        };
        database.close().await?;
        Ok(table)
    }

    /// Waits until all that is stored has had its effect and only the incarnations of `alive` processes are open, then compares the books:
    /// the sender's, upstream's table, and the business service's.
    ///
    /// # Errors
    /// When a promise was not kept, an effect came twice, something had an effect that was never stored, or an invariant was violated.
    pub async fn books_agree(&self, book: &Book, alive: usize) -> anyhow::Result<()> {
        let (mut table, mut effects) = (Table::default(), countersign_launcher::Effects::default());
        let settled = wait_until("all that is stored to have its effect", PATIENCE, async || {
            let (Ok(now), Ok(had)) = (self.table().await, self.system.effects().await) else { return false };
            (table, effects) = (now, had);
            table.unclosed.len() == alive && table.stored.iter().all(|id| effects.effects.contains_key(id))
        });
        if let Err(error) = settled.await {
            let missing = table.stored.iter().filter(|id| !effects.effects.contains_key(*id)).count();
            bail!("{error}: {missing} of {} have none; unclosed: {:?}", table.stored.len(), table.unclosed);
        }
        let stored_and_promised = book.promised.iter().filter(|id| table.stored.contains(*id)).count();
        ensure!(
            stored_and_promised == book.promised.len(),
            "{stored_and_promised} of {} promises are stored",
            book.promised.len()
        );
        let most = book.promised.len() + book.unanswered as usize;
        ensure!(table.stored.len() <= most, "{} are stored, {most} were sent", table.stored.len());
        for (id, times) in &effects.effects {
            ensure!(*times == 1, "message {id} had {times} effects");
            ensure!(table.stored.contains(id), "message {id} had an effect and was never committed");
        }
        self.all_signed(&table.stored.iter().cloned().collect::<Vec<_>>()).await?;
        self.no_invariant_was_violated()
    }

    /// Over all lives of all services, those that were killed included.
    ///
    /// # Errors
    /// When a log tells of one.
    pub fn no_invariant_was_violated(&self) -> anyhow::Result<()> {
        for which in Which::REPLICATED {
            let log = self.system.log_of(which).unwrap_or_default();
            let line = log.lines().find(|line| line.contains("an invariant of the protocol does not hold"));
            ensure!(line.is_none(), "{} says: {}", which.name(), line.unwrap_or_default());
        }
        Ok(())
    }
}

async fn call(url: String, next: Arc<AtomicU32>, end: u32) -> anyhow::Result<Book> {
    let mut book = Book::default();
    let mut upstream = UpstreamServiceClient::new(Endpoint::from_shared(url)?.timeout(ANSWER).connect_lazy());
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= end {
            return Ok(book);
        }
        let Ok(answer) = upstream.send_message(SendMessageRequest { message: Some(order(number)) }).await else {
            book.unanswered += 1;
            return Ok(book);
        };
        let accepted = answer.into_inner().accepted.context("an answer without a result")?;
        ensure!(!accepted.duplicate, "order {number} was sent once");
        book.promised.push(accepted.id);
    }
}

async fn lines(database: &DatabaseConnection, query: &str) -> anyhow::Result<Vec<String>> {
    let rows = database.query_all_raw(Statement::from_string(database.get_database_backend(), query)).await?;
    rows.iter().map(|row| Ok(row.try_get("", "line")?)).collect()
}

async fn count(database: &DatabaseConnection, of: &str) -> anyhow::Result<u64> {
    number(database, &format!("SELECT CAST(count(*) AS text) AS line FROM {of}")).await
}

async fn number(database: &DatabaseConnection, query: &str) -> anyhow::Result<u64> {
    Ok(lines(database, query).await?.first().context("no number")?.parse()?)
}

/// A UUID in its usual form, of its 32 digits.
fn hyphenated(digits: &str) -> String {
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| digits.get(part).unwrap_or_default());
    parts.join("-")
}
