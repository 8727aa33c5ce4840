//! One attempt to connect, with a time limit and a clear word when it fails.

use std::sync::Arc;

use lapin::tcp::OwnedTLSConfig;
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tracing::info;

use crate::config::Config;
use crate::error::Error;
use crate::handshake::{self, Server};
use crate::state::{DownReason, Purpose};

/// Makes connections of one purpose.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    pub(crate) config: Arc<Config>,
    pub(crate) purpose: Purpose,
    /// Where to, without the password.
    pub(crate) place: String,
    uri: AMQPUri,
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
        let Some(uri) = config.parsed().filter(|_| problems.is_empty()) else { return Err(Error::Config(problems)) };
        let place = config.place();
        Ok(Self { config, purpose, place, uri, tls, name: name.to_owned(), server: Arc::default() })
    }

    pub(crate) fn for_purpose(&self, purpose: Purpose) -> Self {
        Self { purpose, ..self.clone() }
    }

    /// What the broker said it is; nothing before the first connection.
    pub(crate) fn server(&self) -> Option<Server> {
        self.server.get().cloned()
    }

    /// Connects within the time limit. lapin ignores the one in the address.
    pub(crate) async fn connect(&self) -> Result<Connection, DownReason> {
        let limit = self.config.connect_timeout();
        match timeout(limit, self.attempt()).await {
            Ok(result) => result,
            Err(_) => Err(DownReason::Unreachable {
                place: self.place.clone(),
                detail: format!("no answer within {} ms", limit.as_millis()),
            }),
        }
    }

    async fn attempt(&self) -> Result<Connection, DownReason> {
        let asked = self.server.get_or_try_init(|| handshake::ask(&self.uri, &self.tls)).await;
        let server = asked.map_err(|error| self.reason(&error))?;
        if server.is_too_old() {
            return Err(DownReason::TooOld { version: server.version.clone() });
        }
        let properties =
            ConnectionProperties::default().with_connection_name(format!("{} {}", self.name, self.purpose.as_str()).into());
        let runtime = lapin::runtime::default_runtime().map_err(|error| self.reason(&error))?;
        let connected = Connection::connect_uri_with_config(self.uri.clone(), properties, self.tls.clone(), runtime).await;
        let connection = connected.map_err(|error| self.reason(&error))?;
        info!(product = %server.product, version = %server.version, connection = self.purpose.as_str(), "logged in");
        Ok(connection)
    }

    fn reason(&self, error: &lapin::Error) -> DownReason {
        DownReason::of_connect(error, &self.place, &self.uri.authority.userinfo.username, &self.uri.vhost)
    }
}
