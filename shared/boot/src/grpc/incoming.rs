//! The connections of the gRPC server: each holds a place, and says what it is in time.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt as _, stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};
use tonic::transport::server::Connected;

use crate::listener::{BoundedListener, Place};
use crate::tls::{self, Acceptor, Peer};

/// Time a client has for the preface of HTTP/2; from then on keep-alives find out who is gone.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Length of the preface (RFC 9113, section 3.4).
const PREFACE_BYTES: usize = 24;

/// What comes through `listener`, as soon as it has shaken hands; none waits for another's hand.
pub(super) fn incoming(listener: BoundedListener, acceptor: Acceptor, max: u32) -> impl Stream<Item = Result<Connection>> {
    let sockets = stream::unfold(listener, async |mut listener| Some((listener.next().await, listener)));
    let shaken = sockets.map(move |(stream, place)| {
        let acceptor = acceptor.clone();
        async move {
            let (stream, peer) = acceptor.accept(stream).await.inspect_err(|error| tracing::debug!(%error, "no TLS")).ok()?;
            Some(Ok(Connection::new(stream, peer, place, HANDSHAKE)))
        }
    });
    shaken.buffer_unordered(max as usize).filter_map(std::future::ready)
}

/// A connection and its place.
#[derive(Debug)]
pub(super) struct Connection {
    stream: tls::Stream,
    peer: Peer,
    _place: Place,
    /// Until the preface is there.
    handshake: Option<Pin<Box<Sleep>>>,
    missing: usize,
}

impl Connection {
    fn new(stream: tls::Stream, peer: Peer, place: Place, limit: Duration) -> Self {
        Self { stream, peer, _place: place, handshake: Some(Box::pin(sleep(limit))), missing: PREFACE_BYTES }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let Some(handshake) = &mut self.handshake else { return read };
        if read.is_pending() && handshake.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "no preface of HTTP/2 in time")));
        }
        self.missing = self.missing.saturating_sub(buffer.filled().len() - before);
        if self.missing == 0 {
            self.handshake = None;
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_util::either::Either;

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);
    const LIMIT: Duration = Duration::from_secs(10);

    async fn connected(listener: &mut BoundedListener, address: std::net::SocketAddr) -> (TcpStream, Connection) {
        let client = TcpStream::connect(address).await.unwrap();
        let (stream, place) = listener.next().await;
        let peer = Peer { address: stream.peer_addr().ok(), names: std::sync::Arc::default() };
        (client, Connection::new(Either::Left(stream), peer, place, SHORT))
    }

    #[tokio::test]
    async fn who_does_not_say_the_preface_in_time_is_an_error_and_who_says_it_may_be_silent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut listener = BoundedListener::new(listener, "grpc.max_connections", 1);
        let mut bytes = [0; PREFACE_BYTES];

        let (mut client, mut server) = connected(&mut listener, address).await;
        client.write_all(&[b'P'; PREFACE_BYTES - 1]).await.unwrap();
        let error = tokio::time::timeout(LIMIT, server.read_exact(&mut bytes)).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);

        drop(server); // it holds the only place
        let (mut client, mut server) = connected(&mut listener, address).await;
        client.write_all(&bytes).await.unwrap();
        server.read_exact(&mut bytes).await.unwrap();
        assert!(tokio::time::timeout(2 * SHORT, server.read_u8()).await.is_err(), "it waits for more");
    }
}
