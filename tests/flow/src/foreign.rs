//! The clients in other languages that are shipped, started as their first lines say.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_launcher::{Program, Running, Which, python};
use sea_orm::{ConnectionTrait as _, Database, DbBackend, Statement};
use serde_json::Value;

use crate::{Flow, PATIENCE};

/// The subscription whose consumer signs for itself.
pub const AUDIT: &str = "audit";
/// Longest life of a producer: its own tries take half a minute when nobody answers.
const PRODUCING: Duration = Duration::from_secs(90);

/// A file of `deploy/examples`.
#[must_use]
pub fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples").join(name)
}

/// The part of the shipped topology that declares [`AUDIT`].
///
/// # Errors
/// When the file is not there or has no such part.
pub fn audit() -> anyhow::Result<String> {
    let text = std::fs::read_to_string(shipped("topology.toml"))?;
    let begin = text.find("[[subscription]]\nname = \"audit\"").context("the shipped topology has no audit")?;
    Ok(text[begin..].to_owned())
}

impl Flow {
    /// Starts `producer.py` with one order.
    ///
    /// # Errors
    /// When Python or a package is missing.
    pub async fn producer(&self, key: &str, body: &str) -> anyhow::Result<Running> {
        let upstream = self.system.grpc_url(Which::Upstream);
        Program::new(python(&shipped("requirements.txt")).await?)
            .arg(shipped("producer.py"))
            .args([key, body])
            .env("UPSTREAM", upstream.trim_start_matches("http://"))
            .env("no_proxy", "127.0.0.1")
            .log_to(self.ground.path("producer.log"))
            .spawn()
    }

    /// Sends one order with `producer.py` and returns what it printed, with its exit code.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn produce(&self, key: &str, body: &str) -> anyhow::Result<(Option<i32>, String)> {
        let producer = self.producer(key, body).await?;
        let status = producer.wait(PRODUCING).await?;
        Ok((status.code(), producer.log_text()))
    }

    /// Sends one order with `producer.py` and returns its id.
    ///
    /// # Errors
    /// When it was not accepted, or no line with id and state was printed.
    pub async fn produced(&self, key: &str, body: &str) -> anyhow::Result<String> {
        let (code, said) = self.produce(key, body).await?;
        ensure!(code == Some(0), "producer.py ended with {code:?} and said {said}");
        id_in(&said)
    }

    /// Starts `consumer.py` on the broker at this address.
    ///
    /// # Errors
    /// When Python or a package is missing.
    pub async fn consumer(&self, amqp: &str) -> anyhow::Result<Running> {
        Program::new(python(&shipped("requirements.txt")).await?)
            .arg(shipped("consumer.py"))
            .env("AMQP_URL", amqp)
            .env("AUDIT_DB", self.ground.path("audit.db"))
            .log_to(self.ground.path("consumer.log"))
            .spawn()
    }

    /// Ids and effects in the database of `consumer.py`: which messages it took, and how many effects there were in all.
    ///
    /// # Errors
    /// When its database cannot be read (yet).
    pub async fn audited(&self) -> anyhow::Result<(Vec<String>, i64)> {
        let database = Database::connect(format!("sqlite://{}", self.ground.path("audit.db").display())).await?;
        let ask = async |sql: &str| database.query_all_raw(Statement::from_string(DbBackend::Sqlite, sql)).await;
        let taken = ask("SELECT message_id FROM taken").await?;
        let tally = ask("SELECT SUM(n) AS n FROM tally").await?;
        let taken = taken.iter().map(|row| row.try_get("", "message_id")).collect::<Result<_, _>>()?;
        let tally = tally.first().context("no sum")?.try_get::<Option<i64>>("", "n")?;
        database.close().await?;
        Ok((taken, tally.unwrap_or_default()))
    }

    /// Starts `handler.mjs` on this port and waits until it listens.
    ///
    /// # Errors
    /// When Node is missing or does not listen.
    pub async fn node_handler(&self, port: u16) -> anyhow::Result<Running> {
        let handler = Program::new("node")
            .arg(shipped("handler.mjs"))
            .env("PORT", port.to_string())
            .env("ORDERS", self.ground.path("orders.jsonl"))
            .log_to(self.ground.path("handler.log"))
            .spawn()
            .context("is there a Node? fix: deploy/local/install node")?;
        handler.wait_for_log("listening on ", PATIENCE).await?;
        Ok(handler)
    }

    /// The keys in the file of `handler.mjs`, as often as they are there.
    ///
    /// # Errors
    /// When the file is not there or a line is none of its own.
    pub fn node_effects(&self) -> anyhow::Result<Vec<String>> {
        let text = std::fs::read_to_string(self.ground.path("orders.jsonl"))?;
        let lines = text.lines().filter(|line| !line.is_empty());
        let key = |line: &str| Some(serde_json::from_str::<Value>(line).ok()?["key"].as_str()?.to_owned());
        lines.map(|line| key(line).with_context(|| format!("no effect: {line}"))).collect()
    }

    /// How a message stands with a subscription; empty when callback knows nothing of the two.
    ///
    /// # Errors
    /// When callback does not answer.
    pub async fn state_of(&self, id: &str, subscription: &str) -> anyhow::Result<String> {
        let deliveries = self.deliveries().await?;
        let found = deliveries.into_iter().find(|delivery| delivery.message_id == id && delivery.subscription == subscription);
        Ok(found.map(|delivery| delivery.state).unwrap_or_default())
    }
}

/// The id in what `producer.py` printed: `<id> SEND_STATE_…`, its last line.
///
/// # Errors
/// When there is no such line.
pub fn id_in(said: &str) -> anyhow::Result<String> {
    let (id, state) = said.trim().lines().last().and_then(|line| line.split_once(' ')).context("it printed no line")?;
    ensure!(["SEND_STATE_CONFIRMED", "SEND_STATE_COMMITTED"].contains(&state), "no state: {said}");
    Ok(id.to_owned())
}
