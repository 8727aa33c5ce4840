//! A relay between a client and its server that can hold what one of them says.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::bail;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::PATIENCE;

/// How often a server that is away is looked for.
const PROBE: Duration = Duration::from_millis(20);
/// Bytes read at a time.
const CHUNK: usize = 16 * 1024;
/// Most bytes held; more ends the connection.
const HELD_MAX: usize = 1024 * 1024;

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who connected.
    Client,
    /// Who was connected to.
    Server,
}

/// A relay on a port of its own. What it holds is lost if its sender dies, which also ends the connection on the other side.
#[derive(Debug)]
pub struct Gate {
    address: SocketAddr,
    clients: watch::Sender<bool>,
    servers: watch::Sender<bool>,
    /// Each change ends the connections of that moment.
    cuts: watch::Sender<()>,
    relay: JoinHandle<()>,
}

impl Gate {
    /// A gate before the server at this address, open both ways. While the server is away its clients wait.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn before(server: String) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (clients, from_clients) = watch::channel(false);
        let (servers, from_servers) = watch::channel(false);
        let (cuts, cut) = watch::channel(());
        let relay = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let mut cut = cut.clone();
                cut.mark_unchanged();
                let serving = serve(client, server.clone(), from_clients.clone(), from_servers.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        // A cut goes before a release that follows it.
                        biased;
                        _ = cut.changed() => {}
                        () = serving => {}
                    }
                });
            }
        });
        Ok(Self { address, clients, servers, cuts, relay })
    }

    /// Where clients connect to.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on holds what this side says.
    pub fn hold(&self, side: Side) {
        self.held(side).send_replace(true);
    }

    /// Hands on what is held of this side, and all that follows.
    pub fn release(&self, side: Side) {
        self.held(side).send_replace(false);
    }

    /// Ends every connection on both sides; what is held of them is lost. New ones are taken.
    pub fn cut(&self) {
        self.cuts.send_replace(());
    }

    const fn held(&self, side: Side) -> &watch::Sender<bool> {
        match side {
            Side::Client => &self.clients,
            Side::Server => &self.servers,
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.relay.abort();
    }
}

/// One connection, until either side ends it.
async fn serve(client: TcpStream, server: String, from_client: watch::Receiver<bool>, from_server: watch::Receiver<bool>) {
    let Ok(server) = timeout(PATIENCE, reach(server)).await else { return };
    let ((client_says, to_client), (server_says, to_server)) = (client.into_split(), server.into_split());
    tokio::select! {
        _ = hand_on(client_says, to_server, from_client) => {}
        _ = hand_on(server_says, to_client, from_server) => {}
    }
}

/// Connects to the server as soon as it is there.
async fn reach(server: String) -> TcpStream {
    loop {
        match TcpStream::connect(&server).await {
            Ok(stream) => return stream,
            Err(_) => sleep(PROBE).await,
        }
    }
}

async fn hand_on(mut says: OwnedReadHalf, mut to: OwnedWriteHalf, mut held: watch::Receiver<bool>) -> anyhow::Result<()> {
    let mut chunk = vec![0; CHUNK];
    let mut waiting = Vec::new();
    while waiting.len() <= HELD_MAX {
        let opened = async { held.wait_for(|held| !held).await.map(drop) };
        tokio::select! {
            read = says.read(&mut chunk) => match read? {
                0 => return Ok(()),
                read => waiting.extend_from_slice(&chunk[..read]),
            },
            opened = opened, if !waiting.is_empty() => {
                opened?;
                to.write_all(&waiting).await?;
                waiting.clear();
            }
        }
    }
    bail!("more than {HELD_MAX} bytes were held")
}
