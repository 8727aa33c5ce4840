//! The end: everything heals by itself, and the books are read from the databases they are in.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, bail};
use countersign_launcher::{Which, wait_until};
use sea_orm::{ConnectOptions, ConnectionTrait as _, Database, DatabaseConnection, Statement};
use tokio::time::Instant;

use crate::history::{Books, Effect};
use crate::servers::note_possible_duplicates;
use crate::stage::Stage;
use crate::tally::Tally;

/// How long healing may take. `RabbitMQ` 3.10 keeps back for three minutes what expires while its target is not there yet; after that come
/// checks, probes and resends.
const HEALING: Duration = Duration::from_mins(8);
/// What a violated invariant looks like in a log, and a panic.
const VIOLATIONS: [&str; 2] = ["an invariant of the protocol does not hold", "panicked at"];

const STORED: &str = "SELECT CAST(id AS TEXT) AS id, '' AS body FROM countersign_message WHERE id IS NOT NULL";
const SIGNED: &str = "SELECT CAST(message_id AS TEXT) AS id, '' AS body FROM countersign_delivery WHERE state = 'done'";
const UNSIGNED: &str =
    "SELECT CAST(message_id AS TEXT) AS id, state AS body FROM countersign_delivery WHERE state <> 'done' ORDER BY 1";
const UNCLOSED: &str = "SELECT CAST(i.id AS TEXT) AS id, CONCAT(i.state, ', adopter ', COALESCE(CAST(h.adopter AS TEXT), 'none')) AS body \
     FROM countersign_incarnation i LEFT JOIN countersign_heartbeat h ON h.incarnation = i.id WHERE i.state <> 'closed'";
const EFFECTS: &str = "SELECT idempotency_key AS id, CAST(body AS TEXT) AS body FROM effect";

/// The databases of upstream, callback and the handler.
struct Databases {
    upstream: DatabaseConnection,
    callback: DatabaseConnection,
    handler: DatabaseConnection,
}

/// Waits until everything is handled and signed for and only the living own an incarnation, then stops the upstreams and returns the
/// books, with how long healing took.
///
/// # Errors
/// When it does not heal in time; the error says what is missing.
pub async fn healed(stage: &Stage, tally: &Tally) -> anyhow::Result<(Books, Duration)> {
    let began = Instant::now();
    let databases = Databases {
        upstream: open(&stage.upstream_database).await?,
        callback: open(&stage.callback_database).await?,
        handler: open(&format!("sqlite://{}?mode=ro", stage.handler_database().display())).await?,
    };
    let mut missing = String::new();
    let healed = wait_until("everything to heal", HEALING, async || {
        missing = match databases.missing(stage).await {
            Ok(missing) => missing,
            Err(error) => format!("{error:#}"),
        };
        missing.is_empty()
    });
    healed.await.with_context(|| missing.clone())?;
    let took = began.elapsed();
    note_possible_duplicates(stage, tally).await?;
    for which in Which::UPSTREAMS {
        if !stage.stop(which).await? {
            bail!("{} did not stop with success; {}", which.name(), stage.tail(which));
        }
    }
    let left = pairs(&databases.upstream, UNCLOSED).await?;
    if !left.is_empty() {
        bail!("both upstreams have stopped with nothing unsettled, and these incarnations are not closed: {left:?}");
    }
    let books = Books {
        effects: databases.effects().await?,
        stored: ids(&databases.upstream, STORED).await?,
        signed: ids(&databases.callback, SIGNED).await?,
        possible_duplicates: tally.possible_duplicates(),
    };
    Ok((books, took))
}

impl Databases {
    async fn effects(&self) -> anyhow::Result<Vec<Effect>> {
        Ok(pairs(&self.handler, EFFECTS).await?.into_iter().map(|(id, body)| Effect { id, body }).collect())
    }

    /// What is not healed, in words; empty: everything is.
    async fn missing(&self, stage: &Stage) -> anyhow::Result<String> {
        let stored = ids(&self.upstream, STORED).await?;
        let (handled, signed) = (ids(&self.handler, EFFECTS).await?, ids(&self.callback, SIGNED).await?);
        for (what, book) in [("handled", &handled), ("signed for", &signed)] {
            let mut missing = stored.difference(book);
            if let Some(first) = missing.next() {
                return Ok(format!("{} messages are stored and not {what}, such as {first}", 1 + missing.count()));
            }
        }
        let unsigned = pairs(&self.callback, UNSIGNED).await?;
        if let Some(first) = unsigned.first() {
            return Ok(format!("{} deliveries are not done, such as {first:?}", unsigned.len()));
        }
        let unclosed = pairs(&self.upstream, UNCLOSED).await?;
        if unclosed.len() != Which::UPSTREAMS.len() {
            return Ok(format!("two upstreams live, and these incarnations are not closed: {unclosed:?}"));
        }
        still_to_do(stage).await
    }
}

/// What the services themselves say is left to do.
async fn still_to_do(stage: &Stage) -> anyhow::Result<String> {
    let rows = [
        (Which::Upstream, "countersign_unconfirmed_messages"),
        (Which::Replica, "countersign_unconfirmed_messages"),
        (Which::Callback, "countersign_oldest_unsigned_age_seconds"),
        (Which::Callback, "countersign_parked_messages"),
    ];
    for (which, name) in rows {
        let value = stage.look.metric(which, name, "").await?;
        if value > 0.0 {
            return Ok(format!("{} says that {name} is {value}", which.name()));
        }
    }
    Ok(String::new())
}

/// Violated invariants: those that the living have counted, and those that anybody has logged.
///
/// # Errors
/// When a service does not answer.
pub async fn violations(stage: &Stage) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for which in Which::REPLICATED {
        for line in stage.log_of(which).lines().filter(|line| VIOLATIONS.iter().any(|words| line.contains(words))) {
            found.push(format!("{} logged: {line}", which.name()));
        }
        if stage.is_alive(which) {
            let counted = stage.look.metric(which, "countersign_invariant_violations_total", "").await?;
            if counted > 0.0 {
                found.push(format!("{} counted {counted} violated invariants", which.name()));
            }
        }
    }
    Ok(found)
}

async fn open(url: &str) -> anyhow::Result<DatabaseConnection> {
    let mut options = ConnectOptions::new(url);
    options.max_connections(1).sqlx_logging(false);
    Database::connect(options).await.with_context(|| format!("opening {url}"))
}

async fn ids(database: &DatabaseConnection, query: &str) -> anyhow::Result<BTreeSet<String>> {
    Ok(pairs(database, query).await?.into_iter().map(|(id, _)| id).collect())
}

async fn pairs(database: &DatabaseConnection, query: &str) -> anyhow::Result<Vec<(String, String)>> {
    let statement = Statement::from_string(database.get_database_backend(), query);
    let rows = database.query_all_raw(statement).await?;
    rows.iter().map(|row| Ok((row.try_get("", "id")?, row.try_get("", "body")?))).collect()
}
