//! The clients in other languages that are shipped, started as their first lines say.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_launcher::{Program, Running, Which, python, wait_until};
use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use sea_orm::{ConnectionTrait as _, Database, DbBackend, Statement};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::{Flow, PATIENCE};

/// The subscription whose consumer signs for itself.
pub const AUDIT: &str = "audit";
/// Longest life of a producer: its own tries take half a minute when nobody answers.
const PRODUCING: Duration = Duration::from_secs(90);

/// The languages there is a handler in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// `handler.mjs`.
    Node,
    /// `handler.py`.
    Python,
}

impl Language {
    const fn started_by(self) -> (&'static str, &'static str) {
        match self {
            Self::Node => ("node", "handler.mjs"),
            Self::Python => ("python3", "handler.py"),
        }
    }
}

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

    /// The ids of the messages that `consumer.py` took, and how many effects it had in all.
    ///
    /// # Errors
    /// When its database cannot be read (yet).
    pub async fn audited(&self) -> anyhow::Result<(Vec<String>, i64)> {
        let taken = self.texts("audit.db", "SELECT message_id AS text FROM taken").await?;
        let effects = self.texts("audit.db", "SELECT CAST(n AS TEXT) AS text FROM tally").await?;
        let effects = effects.iter().map(|count| count.parse::<i64>()).sum::<Result<_, _>>()?;
        Ok((taken, effects))
    }

    /// The column `text` of what a query finds in a database of this test.
    async fn texts(&self, file: &str, query: &str) -> anyhow::Result<Vec<String>> {
        let database = Database::connect(format!("sqlite://{}", self.ground.path(file).display())).await?;
        let rows = database.query_all_raw(Statement::from_string(DbBackend::Sqlite, query)).await?;
        database.close().await?;
        Ok(rows.iter().map(|row| row.try_get("", "text")).collect::<Result<_, _>>()?)
    }

    /// Publishes to a queue what no upstream has sent.
    ///
    /// # Errors
    /// When the broker does not take it.
    pub async fn litter(&self, queue: &str) -> anyhow::Result<()> {
        let (_connection, channel) = self.channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        channel.basic_publish("".into(), queue.into(), options, b"no message", properties).await?.await?;
        Ok(())
    }

    /// Starts one of the handlers on this port and waits until it listens.
    ///
    /// # Errors
    /// When its language is missing or it does not listen.
    pub async fn handler(&self, language: Language, port: u16) -> anyhow::Result<Running> {
        let (interpreter, file) = language.started_by();
        let handler = Program::new(interpreter)
            .arg(shipped(file))
            .env("PORT", port.to_string())
            .env("ORDERS", self.ground.path("orders.jsonl"))
            .env("ORDERS_DB", self.ground.path("taken.db"))
            .log_to(self.ground.path("handler.log"))
            .spawn()
            .with_context(|| format!("is there a {interpreter}? fix: deploy/local/install python node"))?;
        let listens = async || !handler.is_alive() || TcpStream::connect(("127.0.0.1", port)).await.is_ok();
        wait_until(&format!("{file} to listen"), PATIENCE, listens).await?;
        ensure!(handler.is_alive(), "{file} has ended and said {}", handler.log_text());
        Ok(handler)
    }

    /// The keys of the effects that one of the handlers has had, as often as they are there, sorted.
    ///
    /// # Errors
    /// When what it writes is not there (yet) or cannot be read.
    pub async fn handled(&self, language: Language) -> anyhow::Result<Vec<String>> {
        let mut keys = match language {
            Language::Python => self.texts("taken.db", "SELECT idempotency_key AS text FROM orders").await?,
            Language::Node => {
                let text = std::fs::read_to_string(self.ground.path("orders.jsonl"))?;
                let lines = text.lines().filter(|line| !line.is_empty());
                let key = |line: &str| Some(serde_json::from_str::<Value>(line).ok()?["key"].as_str()?.to_owned());
                lines.map(|line| key(line).with_context(|| format!("no effect: {line}"))).collect::<Result<_, _>>()?
            }
        };
        keys.sort();
        Ok(keys)
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
