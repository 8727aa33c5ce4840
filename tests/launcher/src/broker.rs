//! What tests ask of a broker, a private one or a user's own.

use std::fmt::Write as _;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, bail};
use lapin::options::{QueueBindOptions, QueueDeclareOptions, QueuePurgeOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties};
use reqwest::Method;
use serde_json::json;
use tokio::time::timeout;

/// Bound of one question to the broker, connecting included.
const QUESTION: Duration = Duration::from_secs(15);
/// AMQP 0-9-1: reply code that ends a connection without an error.
const REPLY_SUCCESS: u16 = 200;

/// What a user may do: patterns of names, and its tags (`management` opens the management interface).
#[derive(Debug, Clone, Copy)]
pub struct Permissions<'a> {
    /// Declare.
    pub configure: &'a str,
    /// Publish.
    pub write: &'a str,
    /// Consume.
    pub read: &'a str,
    /// Separated by commas.
    pub tags: &'a str,
}

/// The two addresses of a broker: AMQP, and the management interface through which virtual hosts are made.
///
/// Virtual hosts go through HTTP because `rabbitmqctl` starts an Erlang machine per call: 16 ms against 360 ms on a quiet
/// machine. Depth and purge go through AMQP: the management interface reports what a quorum queue held seconds ago.
#[derive(Debug, Clone)]
pub struct Broker {
    amqp: String,
    admin: String,
}

impl Broker {
    /// `amqp`: `amqp://user:password@host:port` (a virtual host after it is cut off);
    /// `admin`: `http://user:password@host:port`.
    #[must_use]
    pub fn new(amqp: &str, admin: &str) -> Self {
        let host_from = amqp.find("://").map_or(0, |at| at + 3);
        let host_to = amqp[host_from..].find(['/', '?']).map_or(amqp.len(), |at| host_from + at);
        Self { amqp: amqp[..host_to].to_owned(), admin: admin.trim_end_matches('/').to_owned() }
    }

    /// The AMQP address of one virtual host; `/` is the default one.
    #[must_use]
    pub fn amqp_url(&self, vhost: &str) -> String {
        format!("{}/{}", self.amqp, encode(vhost))
    }

    /// The address of the management interface.
    #[must_use]
    pub fn admin_url(&self) -> &str {
        &self.admin
    }

    /// Creates a virtual host that the user of these addresses may use fully; one that exists is left as it is.
    ///
    /// # Errors
    /// When the management interface refuses or does not answer.
    pub async fn create_vhost(&self, name: &str) -> anyhow::Result<()> {
        self.ask_admin(Method::PUT, &format!("vhosts/{}", encode(name))).await
    }

    /// Deletes a virtual host with all it holds; its connections are closed by the broker.
    ///
    /// # Errors
    /// When the management interface refuses or does not answer.
    pub async fn delete_vhost(&self, name: &str) -> anyhow::Result<()> {
        self.ask_admin(Method::DELETE, &format!("vhosts/{}", encode(name))).await
    }

    /// Creates a user, or changes the one of this name, that may do in one virtual host what the three patterns allow; `^$` allows nothing.
    /// Users belong to the whole broker: take a name that nobody else has.
    ///
    /// # Errors
    /// When the management interface refuses or does not answer.
    pub async fn create_user(&self, user: &str, password: &str, vhost: &str, may: Permissions<'_>) -> anyhow::Result<()> {
        let body = json!({"password": password, "tags": may.tags});
        self.put(&format!("users/{}", encode(user)), &body).await?;
        let body = json!({"configure": may.configure, "write": may.write, "read": may.read});
        self.put(&format!("permissions/{}/{}", encode(vhost), encode(user)), &body).await
    }

    /// Takes over definitions, such as permissions of users that are there, as `rabbitmqctl import_definitions` would.
    ///
    /// # Errors
    /// When the management interface refuses or does not answer.
    pub async fn import_definitions(&self, definitions: &serde_json::Value) -> anyhow::Result<()> {
        self.send_with(Method::POST, "definitions", Some(definitions)).await.map(|_| ())
    }

    /// Sets a policy on the queues of one virtual host whose names match.
    ///
    /// # Errors
    /// When the management interface refuses or does not answer.
    pub async fn set_policy(&self, vhost: &str, name: &str, pattern: &str, definition: &serde_json::Value) -> anyhow::Result<()> {
        let body = json!({"pattern": pattern, "apply-to": "queues", "definition": definition});
        self.put(&format!("policies/{}/{}", encode(vhost), encode(name)), &body).await
    }

    /// Whether a virtual host can be used.
    ///
    /// # Errors
    /// When the broker does not answer, or refuses user or virtual host.
    pub async fn answers(&self, vhost: &str) -> anyhow::Result<()> {
        self.on_channel(vhost, async |_| Ok(())).await
    }

    /// Throws away the messages that are ready in a queue (not those at a consumer) and says how many they were.
    ///
    /// # Errors
    /// When the queue does not exist or the broker does not answer.
    pub async fn purge(&self, vhost: &str, queue: &str) -> anyhow::Result<u32> {
        self.on_channel(vhost, async |channel| channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await)
            .await
            .with_context(|| format!("purging {queue}"))
    }

    /// How many messages are ready in a queue now; those at a consumer do not count.
    ///
    /// A quorum queue without a leader, as for a moment after a restart, answers 0 like an empty one: do not take a single 0
    /// as proof that a queue was drained.
    ///
    /// # Errors
    /// When the queue does not exist or the broker does not answer.
    pub async fn queue_depth(&self, vhost: &str, queue: &str) -> anyhow::Result<u32> {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        self.on_channel(vhost, async |channel| {
            let queue = channel.queue_declare(queue.into(), passive, FieldTable::default()).await?;
            Ok(queue.message_count())
        })
        .await
        .with_context(|| format!("asking for the depth of {queue}"))
    }

    /// Takes a binding away: what is published there meanwhile reaches this queue no more.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn unbind(&self, vhost: &str, queue: &str, exchange: &str, routing_key: &str) -> anyhow::Result<()> {
        self.on_channel(vhost, async |channel| {
            channel.queue_unbind(queue.into(), exchange.into(), routing_key.into(), FieldTable::default()).await
        })
        .await
        .with_context(|| format!("unbinding {queue} from {exchange}"))
    }

    /// Binds a queue; a binding that exists is left as it is.
    ///
    /// # Errors
    /// When queue or exchange do not exist, or the broker does not answer.
    pub async fn bind(&self, vhost: &str, queue: &str, exchange: &str, routing_key: &str) -> anyhow::Result<()> {
        let options = QueueBindOptions::default();
        self.on_channel(vhost, async |channel| {
            channel.queue_bind(queue.into(), exchange.into(), routing_key.into(), options, FieldTable::default()).await
        })
        .await
        .with_context(|| format!("binding {queue} to {exchange}"))
    }

    async fn on_channel<T>(&self, vhost: &str, ask: impl AsyncFnOnce(&Channel) -> lapin::Result<T>) -> anyhow::Result<T> {
        let url = self.amqp_url(vhost);
        let question = async {
            let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
            // Only lent: a channel that is dropped starts to close, and the close of the connection then trips over it.
            let channel = connection.create_channel().await?;
            let answer = ask(&channel).await;
            // The answer is there; how the connection ends does not matter to it.
            let _ = connection.close(REPLY_SUCCESS, "done".into()).await;
            answer
        };
        let answer = timeout(QUESTION, question).await.context("the broker did not answer in time")?;
        Ok(answer?)
    }

    async fn ask_admin(&self, method: Method, path: &str) -> anyhow::Result<()> {
        self.send(method, path).await.map(|_| ())
    }

    async fn put(&self, path: &str, body: &serde_json::Value) -> anyhow::Result<()> {
        self.send_with(Method::PUT, path, Some(body)).await.map(|_| ())
    }

    async fn send(&self, method: Method, path: &str) -> anyhow::Result<reqwest::Response> {
        self.send_with(method, path, None).await
    }

    async fn send_with(&self, method: Method, path: &str, body: Option<&serde_json::Value>) -> anyhow::Result<reqwest::Response> {
        let url = format!("{}/api/{path}", self.admin);
        let mut request = http_client()?.request(method.clone(), &url).header("content-type", "application/json");
        if let Some(body) = body {
            request = request.body(body.to_string());
        }
        let response = request
            .send()
            .await
            .with_context(|| format!("asking the broker's management interface ({}); is its plugin enabled?", self.admin))?;
        let status = response.status();
        if !status.is_success() {
            bail!("{method} {path}: the broker answered {status}: {}", response.text().await?);
        }
        Ok(response)
    }
}

fn http_client() -> anyhow::Result<reqwest::Client> {
    static PROVIDER: OnceLock<()> = OnceLock::new();
    // The client is built without a TLS provider and panics without one; that somebody else installed one first is fine.
    PROVIDER.get_or_init(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    // A new client per question: a pooled connection dies with the runtime of the test that made it.
    Ok(reqwest::Client::builder().timeout(QUESTION).no_proxy().build()?)
}

/// Percent-encodes one segment of a path.
fn encode(segment: &str) -> String {
    let mut encoded = String::new();
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02x}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vhost_is_encoded_into_the_address() {
        let broker = Broker::new("amqp://u:p@localhost:1/old?heartbeat=1", "http://u:p@localhost:2/");
        assert_eq!(broker.amqp_url("/"), "amqp://u:p@localhost:1/%2f");
        assert_eq!(broker.amqp_url("a b"), "amqp://u:p@localhost:1/a%20b");
        assert_eq!(broker.admin_url(), "http://u:p@localhost:2");
    }
}
