//! One address for several replicas, as a Kubernetes service is one.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

/// How long a replica may take to accept a connection; one that is gone refuses it at once.
const CONNECT: Duration = Duration::from_secs(1);

/// Hands each connection to the next replica that takes it. One that is paused takes it too, and answers nothing.
#[derive(Debug)]
pub(crate) struct Front {
    address: SocketAddr,
    /// Who gets the next connection, whoever's turn it is.
    preferred: watch::Sender<Option<SocketAddr>>,
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
        let (preferred, preference) = watch::channel(None);
        let relay = tokio::spawn(async move {
            // Ended with the front: the connections' tasks are this set's.
            let mut connections = JoinSet::new();
            let mut turn = 0;
            while let Ok((client, _)) = listener.accept().await {
                turn += 1;
                let mut order = replicas.clone();
                order.rotate_left(turn % replicas.len());
                let preference = preference.clone();
                connections.spawn(hand_over(client, order, preference));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, preferred, relay })
    }

    /// From now on this replica is tried first; connections that are open are closed.
    pub(crate) fn prefer(&self, replica: SocketAddr) {
        self.preferred.send_replace(Some(replica));
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

/// One connection, until either side ends it or another replica is preferred; closed at once when no replica takes it.
async fn hand_over(mut client: TcpStream, mut order: Vec<SocketAddr>, mut preference: watch::Receiver<Option<SocketAddr>>) {
    let preferred = *preference.borrow_and_update();
    order.sort_by_key(|replica| Some(*replica) != preferred);
    for replica in order {
        if let Ok(Ok(mut server)) = timeout(CONNECT, TcpStream::connect(replica)).await {
            tokio::select! {
                // Either side may vanish in the middle: that is what the tests are about.
                _ = copy_bidirectional(&mut client, &mut server) => {}
                _ = preference.changed() => {}
            }
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

    #[tokio::test]
    async fn a_preferred_replica_is_tried_first_and_open_connections_are_closed() {
        let (holder, other) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), replica("other").await);
        let front = Front::before(vec![holder.local_addr().unwrap(), other.0]).await.unwrap();
        front.prefer(holder.local_addr().unwrap());
        let mut held = TcpStream::connect(front.address()).await.unwrap();
        let (_keep, _) = holder.accept().await.unwrap();
        front.prefer(other.0);
        assert_eq!(held.read_to_end(&mut Vec::new()).await.unwrap(), 0);
        for _ in 0..3 {
            assert_eq!(echo_of(&front).await.unwrap(), b"other");
        }
    }
}
