//! One attempt to connect, with a time limit and a clear word when it fails.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lapin::tcp::OwnedTLSConfig;
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tracing::info;

use crate::config::{Config, place_of};
use crate::error::Error;
use crate::handshake::{self, Server};
use crate::state::{DownReason, Purpose};

/// Makes connections of one purpose.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    pub(crate) config: Arc<Config>,
    pub(crate) purpose: Purpose,
    nodes: Arc<[AMQPUri]>,
    /// The node whose turn it is; shared by all connectors of a [`Broker`](crate::Broker), so that its connections go to different nodes.
    turn: Arc<AtomicUsize>,
    tls: OwnedTLSConfig,
    name: String,
    /// Shared by all connectors of a [`Broker`](crate::Broker): the broker is asked once what it is.
    server: Arc<OnceCell<Server>>,
}

impl Connector {
    /// Checks the configuration and reads the certificate file.
    pub(crate) fn new(config: Arc<Config>, name: &str, purpose: Purpose) -> Result<Self, Error> {
        let mut problems = config.problems();
        let mut tls = OwnedTLSConfig::default();
        if let Some(path) = &config.ca_file {
            match std::fs::read_to_string(path) {
                Ok(pem) => tls.cert_chain = Some(pem),
                Err(error) => problems.push(format!("broker.ca_file {} cannot be read: {error}", path.display())),
            }
        }
        let Some(nodes) = config.parsed().filter(|_| problems.is_empty()) else { return Err(Error::Config(problems)) };
        let turn = chance(nodes.len());
        let (nodes, turn) = (nodes.into(), Arc::new(AtomicUsize::new(turn)));
        Ok(Self { config, purpose, nodes, turn, tls, name: name.to_owned(), server: Arc::default() })
    }

    pub(crate) fn for_purpose(&self, purpose: Purpose) -> Self {
        Self { purpose, ..self.clone() }
    }

    /// What the broker said it is; nothing before the first connection.
    pub(crate) fn server(&self) -> Option<Server> {
        self.server.get().cloned()
    }

    /// Connects to the node whose turn it is, or to the first of the others that can be reached, and says which: what may be shown of it.
    pub(crate) async fn connect(&self) -> Result<(Connection, String), DownReason> {
        let mut reason = DownReason::Starting;
        for _ in 0..self.nodes.len() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let node = &self.nodes[turn % self.nodes.len()];
            let place = place_of(std::slice::from_ref(node));
            match self.connect_to(node, &place).await {
                Ok(connection) => return Ok((connection, place)),
                Err(next) => reason = next,
            }
        }
        Err(reason)
    }

    /// Connects within the time limit. lapin ignores the one in the address.
    async fn connect_to(&self, node: &AMQPUri, place: &str) -> Result<Connection, DownReason> {
        let limit = self.config.connect_timeout();
        // Boxed: it is large, and made once a connection.
        match timeout(limit, Box::pin(self.attempt(node, place))).await {
            Ok(result) => result,
            Err(_) => Err(DownReason::Unreachable {
                place: place.to_owned(),
                detail: format!("no answer within {} ms", limit.as_millis()),
            }),
        }
    }

    async fn attempt(&self, node: &AMQPUri, place: &str) -> Result<Connection, DownReason> {
        let reason = |error| DownReason::of_connect(&error, place, &node.authority.userinfo.username, &node.vhost);
        let asked = self.server.get_or_try_init(|| handshake::ask(node, &self.tls)).await;
        let server = asked.map_err(reason)?;
        if server.is_too_old() {
            return Err(DownReason::TooOld { version: server.version.clone() });
        }
        let properties =
            ConnectionProperties::default().with_connection_name(format!("{} {}", self.name, self.purpose.as_str()).into());
        let runtime = lapin::runtime::default_runtime().map_err(reason)?;
        let connected = Connection::connect_uri_with_config(node.clone(), properties, self.tls.clone(), runtime).await;
        let connection = connected.map_err(reason)?;
        info!(product = %server.product, version = %server.version, connection = self.purpose.as_str(), "logged in");
        Ok(connection)
    }
}

/// A number below `nodes`, by chance: processes that start together begin at different nodes.
fn chance(nodes: usize) -> usize {
    let drawn = usize::try_from(RandomState::new().hash_one(nodes) >> 32).unwrap_or_default();
    drawn % nodes.max(1)
}
