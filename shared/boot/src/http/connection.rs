//! One HTTP connection, from its place to its end.
//!
//! | a connection without an open request that | is closed |
//! |---|---|
//! | has brought no request yet | after `http.header_timeout_ms` |
//! | has been answered before | after `http.idle_timeout_ms`, or at once when its place is needed and it has been idle longest |
//! | is there when the servers stop | at once |
//!
//! The library's own time-out for heads is off. It counts the idle time before a head as the head's, so a short one would close the
//! connections in every client's pool; and it begins when the protocol is known, which a silent client never makes known.
//!
//! **Invariant:** an open request is never cut here. A request is open from its head to the end of its answer's body, and a client is
//! told to go (`Connection: close`, GOAWAY) and answered first.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::config::Http;
use crate::listener::{KEEPALIVE_ANSWER, Place};
use crate::tls::Acceptor;

/// Requests that one connection of HTTP/2 may have open at a time.
const MAX_STREAMS: u32 = 256;
/// Most bytes of a request's head.
const MAX_HEAD_BYTES: u32 = 64 * 1024;
/// Time that a connection that was told to close, and has nothing open, has to take the rest of its last answer.
const LINGER: Duration = Duration::from_secs(1);

/// What all connections of the server share. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Connections {
    router: Router,
    acceptor: Acceptor,
    protocol: Builder<TokioExecutor>,
    header_timeout: Duration,
    idle_timeout: Duration,
    crowded: Arc<Notify>,
    stop: CancellationToken,
}

/// The requests of one connection.
#[derive(Debug, Default)]
struct Requests {
    open: usize,
    /// Whether there ever was one.
    seen: bool,
}

impl Connections {
    pub(super) fn new(router: Router, acceptor: Acceptor, config: &Http, crowded: Arc<Notify>, stop: CancellationToken) -> Self {
        let mut protocol = Builder::new(TokioExecutor::new());
        protocol.http1().header_read_timeout(None).max_buf_size(MAX_HEAD_BYTES as usize);
        protocol
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_millis(config.keepalive_ms))
            .keep_alive_timeout(KEEPALIVE_ANSWER)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEAD_BYTES);
        Self {
            router,
            acceptor,
            protocol,
            header_timeout: Duration::from_millis(config.header_timeout_ms),
            idle_timeout: Duration::from_millis(config.idle_timeout_ms),
            crowded,
            stop,
        }
    }

    /// Answers the requests of `stream` until one of both ends leaves. What goes wrong on it is the client's to see.
    pub(super) async fn serve(self, stream: TcpStream, place: Place) {
        let _place = place;
        let Ok((stream, peer)) = self.acceptor.accept(stream).await else { return };
        let (opened, mut requests) = watch::channel(Requests::default());
        let (opened, router) = (Arc::new(opened), self.router.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            answer(router.clone(), request, Open::new(opened.clone()))
        });
        let mut connection = std::pin::pin!(self.protocol.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            _ = connection.as_mut() => return,
            () = self.stop.cancelled() => {}
            () = self.unused(&mut requests) => {}
        }
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            _ = connection => {}
            () = lingered(&mut requests) => {}
        }
    }

    /// Waits until the connection has held its place long enough without an open request.
    async fn unused(&self, requests: &mut watch::Receiver<Requests>) {
        loop {
            let Requests { open, seen } = *requests.borrow_and_update();
            let limit = if seen { self.idle_timeout } else { self.header_timeout };
            tokio::select! {
                Ok(()) = requests.changed() => {}
                () = sleep(limit), if open == 0 => return,
                () = self.crowded.notified(), if open == 0 && seen => return,
            }
        }
    }
}

/// Waits until no request is open, nor comes for a while.
async fn lingered(requests: &mut watch::Receiver<Requests>) {
    loop {
        let idle = requests.borrow_and_update().open == 0;
        if !idle {
            let _ = requests.changed().await;
        } else if !matches!(timeout(LINGER, requests.changed()).await, Ok(Ok(()))) {
            return;
        }
    }
}

async fn answer(router: Router, request: Request<Incoming>, open: Open) -> Result<Response, Infallible> {
    let answer = router.oneshot(request.map(Body::new)).await?;
    Ok(answer.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _ = &open;
            frame
        }))
    }))
}

/// Counts one request as open until it is dropped.
struct Open(Arc<watch::Sender<Requests>>);

impl Open {
    fn new(requests: Arc<watch::Sender<Requests>>) -> Self {
        requests.send_modify(|requests| {
            requests.open += 1;
            requests.seen = true;
        });
        Self(requests)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|requests| requests.open -= 1);
    }
}
