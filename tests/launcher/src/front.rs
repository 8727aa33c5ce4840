//! One address for several replicas, as a Kubernetes service is one.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

/// How long a replica may take to accept a connection; one that is gone refuses it at once.
const CONNECT: Duration = Duration::from_secs(1);

/// Hands each connection to the next replica that takes it. One that is paused takes it too, and answers nothing.
#[derive(Debug)]
pub(crate) struct Front {
    address: SocketAddr,
    relay: JoinHandle<()>,
}

impl Front {
    /// A front before these replicas, on a free port of its own.
    ///
    /// # Errors
    /// When no port is free.
    pub(crate) async fn before(replicas: Vec<SocketAddr>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let relay = tokio::spawn(async move {
            // Ended with the front: the connections' tasks are this set's.
            let mut connections = JoinSet::new();
            let mut turn = 0;
            while let Ok((client, _)) = listener.accept().await {
                turn += 1;
                let mut order = replicas.clone();
                order.rotate_left(turn % replicas.len());
                connections.spawn(hand_over(client, order));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, relay })
    }

    /// Where clients connect to.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.relay.abort();
    }
}

/// One connection, until either side ends it; closed at once when no replica takes it.
async fn hand_over(mut client: TcpStream, order: Vec<SocketAddr>) {
    for replica in order {
        if let Ok(Ok(mut server)) = timeout(CONNECT, TcpStream::connect(replica)).await {
            // Either side may vanish in the middle: that is what the tests are about.
            let _ = copy_bidirectional(&mut client, &mut server).await;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn echo_of(front: &Front) -> std::io::Result<Vec<u8>> {
        let mut client = TcpStream::connect(front.address()).await?;
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await?;
        Ok(heard)
    }

    /// A replica that says its name to whoever connects.
    async fn replica(name: &'static str) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                client.write_all(name.as_bytes()).await.unwrap();
            }
        });
        (address, serving)
    }

    #[tokio::test]
    async fn connections_go_to_the_replicas_in_turn_and_to_the_other_when_one_is_gone() {
        let ((one, gone), (other, _other)) = (replica("one").await, replica("other").await);
        let front = Front::before(vec![one, other]).await.unwrap();
        let mut heard = [echo_of(&front).await.unwrap(), echo_of(&front).await.unwrap()];
        heard.sort();
        assert_eq!(heard, [b"one".to_vec(), b"other".to_vec()]);
        gone.abort();
        let _ = gone.await;
        for _ in 0..3 {
            assert_eq!(echo_of(&front).await.unwrap(), b"other");
        }
    }
}
