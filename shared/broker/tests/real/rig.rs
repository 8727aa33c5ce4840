//! A broker of our own making on a virtual host of this test.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use bytes::Bytes;
use countersign_broker::{Broker, Config};
use countersign_delivery::ports::broker::{HeaderValue, Properties, Publication, Publisher};
use countersign_launcher::Ground;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Longest wait for anything that ought to be quick.
pub const SOON: Duration = Duration::from_secs(20);

/// What is under test, connected.
pub struct Rig {
    pub broker: Broker,
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
}

impl Rig {
    pub fn start(config: Config) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let broker = Broker::connect(config, "test", &tasks, stop.clone()).expect("a sound configuration");
        Self { broker, tasks, stop }
    }

    pub async fn up(url: &str) -> Self {
        let rig = Self::start(config(url));
        timeout(SOON, rig.broker.up()).await.expect("the broker is there");
        rig
    }

    /// Ends everything and proves that no task is left.
    pub async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        timeout(SOON, self.tasks.wait()).await.expect("all tasks end");
    }
}

pub fn config(url: &str) -> Config {
    Config { url: url.into(), reconnect_max_ms: 500, ..Config::default() }
}

pub async fn ground(test: &str) -> Ground {
    Ground::new(test).await.expect("servers")
}

/// The answer to one plain lapin call. lapin waits for it without end.
///
/// # Errors
/// What was asked, and the broker's words or that it said nothing within [`SOON`].
pub async fn answered<T>(asked: impl Display, call: impl Future<Output = lapin::Result<T>>) -> Result<T, String> {
    match timeout(SOON, call).await {
        Ok(answer) => answer.map_err(|error| format!("{asked}: {error}")),
        Err(_) => Err(format!("{asked}: the broker did not answer within {} s", SOON.as_secs())),
    }
}

/// A plain lapin channel beside what is under test. The connection must be kept.
pub async fn raw(url: &str) -> (Connection, Channel) {
    let connection = answered("connecting", Connection::connect(url, ConnectionProperties::default())).await.unwrap();
    let channel = answered("opening a channel", connection.create_channel()).await.unwrap();
    (connection, channel)
}

/// Declares a durable quorum queue.
pub async fn quorum(channel: &Channel, name: &str, arguments: &[(&str, AMQPValue)]) {
    let mut table: BTreeMap<_, _> =
        arguments.iter().map(|(name, value)| (lapin::types::ShortString::from(*name), value.clone())).collect();
    table.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(name.into(), options, FieldTable::from(table));
    answered(format_args!("declaring the queue {name}"), declared).await.unwrap();
}

/// Arguments of a queue that takes one message, and refuses further ones.
pub fn bounded() -> [(&'static str, AMQPValue); 2] {
    [("x-max-length", AMQPValue::LongInt(1)), ("x-overflow", AMQPValue::LongString("reject-publish".into()))]
}

/// A publication straight to a queue.
#[allow(clippy::needless_pass_by_value, reason = "callers hand over numbers and texts alike")]
pub fn to(queue: &str, id: impl ToString) -> Publication {
    let headers = BTreeMap::from([("n".to_owned(), HeaderValue::Int(7))]);
    Publication {
        exchange: String::new(),
        routing_key: queue.to_owned(),
        properties: Properties { message_id: Some(id.to_string()), headers, ..Properties::default() },
        body: Bytes::from_static(&[7; 256]),
    }
}
