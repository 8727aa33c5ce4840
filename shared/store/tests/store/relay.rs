//! A relay before a server, which breaks connections at a chosen word.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// What becomes of the next COMMIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Commit {
    /// It arrives, and is answered.
    Passes = 0,
    /// It arrives; its answer does not.
    LosesItsAnswer = 1,
    /// It never arrives.
    NeverArrives = 2,
}

/// Hands everything over until it is told to break.
pub struct Relay {
    address: SocketAddr,
    next: Arc<AtomicU8>,
    serving: JoinHandle<()>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Relay {
    /// Before the server of this database.
    pub async fn before(url: &str) -> Self {
        let server = url.rsplit_once('@').unwrap().1.split('/').next().unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, next) = (listener.local_addr().unwrap(), Arc::new(AtomicU8::new(Commit::Passes as u8)));
        let shared = next.clone();
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&server).await.unwrap();
                connections.spawn(hand_over(client, server, shared.clone()));
            }
        });
        Self { address, next, serving }
    }

    /// The same database through the relay.
    pub fn url(&self, url: &str) -> String {
        let (user, rest) = url.rsplit_once('@').unwrap();
        format!("{user}@{}/{}", self.address, rest.split_once('/').unwrap().1)
    }

    /// Once, for whichever connection commits next.
    pub fn next_commit(&self, becomes: Commit) {
        self.next.store(becomes as u8, Ordering::SeqCst);
    }

    /// Whether that has come to pass.
    pub fn has_broken(&self) -> bool {
        self.next.load(Ordering::SeqCst) == Commit::Passes as u8
    }
}

/// One connection, until either side ends it or it is broken.
async fn hand_over(client: TcpStream, server: TcpStream, next: Arc<AtomicU8>) {
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) = (client.into_split(), server.into_split());
    let (mut sent, mut answered, mut mute) = (vec![0; 65_536], vec![0; 65_536], false);
    loop {
        tokio::select! {
            read = from_client.read(&mut sent) => {
                let Ok(1..) = read else { return };
                let bytes = &sent[..read.unwrap()];
                if bytes.windows(6).any(|word| word == b"COMMIT") {
                    match next.swap(Commit::Passes as u8, Ordering::SeqCst) {
                        1 => mute = true,
                        2 => return,
                        _ => {}
                    }
                }
                if to_server.write_all(bytes).await.is_err() {
                    return;
                }
            }
            read = from_server.read(&mut answered) => {
                let Ok(1..) = read else { return };
                if mute || to_client.write_all(&answered[..read.unwrap()]).await.is_err() {
                    return;
                }
            }
        }
    }
}
