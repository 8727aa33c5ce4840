//! The listening sockets: a bounded number of connections at a time.
//!
//! When all places are taken one more connection is accepted and waits for a place, and those behind it wait in the listen backlog of
//! the system. Closing them at once instead would turn away the probes of a busy process, which would then be killed; and the wait is
//! short: the HTTP connection that has been idle longest is asked to leave, and one that says nothing is closed in time.
//!
//! **Invariant:** an error of accept neither ends a server nor keeps it spinning.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Wait after an error of accept that the next try would meet again: no descriptors, no memory.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// Least time between two warnings that all places are taken.
const TELL_AGAIN: Duration = Duration::from_mins(1);

/// Time a client of HTTP/2 has to answer a keep-alive before its connection is closed.
pub(crate) const KEEPALIVE_ANSWER: Duration = Duration::from_secs(10);

/// The place of one connection, given back when it is dropped.
pub(crate) type Place = OwnedSemaphorePermit;

/// A listening socket with a bounded number of places behind it.
#[derive(Debug)]
pub(crate) struct BoundedListener {
    listener: TcpListener,
    key: &'static str,
    max: u32,
    places: Arc<Semaphore>,
    crowded: Arc<Notify>,
    told: Option<Instant>,
}

impl BoundedListener {
    /// `max` places, named by the configuration key `key`.
    pub(crate) fn new(listener: TcpListener, key: &'static str, max: u32) -> Self {
        let places = Arc::new(Semaphore::new(max as usize));
        Self { listener, key, max, places, crowded: Arc::default(), told: None }
    }

    /// Wakes who has waited longest, once for each connection that finds no place or no descriptor: an idle connection waits here, and
    /// leaves then.
    pub(crate) fn crowded(&self) -> Arc<Notify> {
        self.crowded.clone()
    }

    /// The next connection, as soon as there is a place for it.
    pub(crate) async fn next(&mut self) -> (TcpStream, Place) {
        loop {
            let stream = self.accept().await;
            // What is written is whole: nothing is gained by waiting for more. A connection that refuses is gone already.
            if stream.set_nodelay(true).is_ok()
                && let Some(place) = self.place().await
            {
                return (stream, place);
            }
        }
    }

    async fn accept(&self) -> TcpStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return stream,
                Err(error) if of_the_client(error.kind()) => {}
                Err(error) => {
                    tracing::warn!(%error, bound = self.key, "no connection can be accepted for now");
                    self.crowded.notify_one();
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// `None` never comes: the places are not closed.
    async fn place(&mut self) -> Option<Place> {
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            return Some(place);
        }
        if self.told.is_none_or(|told| told.elapsed() >= TELL_AGAIN) {
            self.told = Some(Instant::now());
            tracing::warn!(
                connections = self.max,
                "all connections are taken: more wait until one is closed ({} sets how many)",
                self.key
            );
        }
        self.crowded.notify_one();
        self.places.clone().acquire_owned().await.ok()
    }
}

/// Whether accept failed for one connection only, which left before it was let in.
const fn of_the_client(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused | ErrorKind::Interrupted
    )
}
