//! How much is taken in at a time. Nothing waits here: what does not fit is refused and told when to come back.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{BodyDataStream, HttpBody as _};
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::config::UpstreamSection;
use crate::http::head::Mode;
use crate::http::problem::Problem;
use crate::refusal::Refusal;
use crate::room::Room;

/// Room for a body of unknown length is taken in pieces of this size.
const PIECE_BYTES: usize = 64 * 1024;

/// Most of a refused body that is read, bytes. Whoever closes a connection with something unread in it may take the answer with it.
const MAX_DISCARDED_BYTES: usize = 16 * 1024 * 1024;

/// The bounds of the HTTP API, from `[upstream]`.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    requests: Arc<Semaphore>,
    max_requests: usize,
    held: Room,
    max_held_bytes: usize,
    read_timeout_ms: u64,
    max_body_bytes: usize,
    pub(super) retry_ms: u64,
}

/// A body and its room.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) body: Bytes,
    /// Given back with the answer.
    pub(super) _held: OwnedSemaphorePermit,
}

impl Bounds {
    pub(super) fn new(section: &UpstreamSection) -> Self {
        Self {
            requests: Arc::new(Semaphore::new(section.http_max_requests)),
            max_requests: section.http_max_requests,
            held: Room::of(section.http_max_held_bytes),
            max_held_bytes: section.http_max_held_bytes,
            read_timeout_ms: section.http_read_timeout_ms,
            max_body_bytes: section.max_body_bytes,
            retry_ms: section.retry_after_ms,
        }
    }

    /// A place for one request.
    pub(super) fn enter(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let full = || self.exhausted(format!("{} requests are being answered (http_max_requests)", self.max_requests));
        self.requests.clone().try_acquire_owned().map_err(|_| full())
    }

    /// Reads a body to its end.
    ///
    /// # Errors
    /// 413 when it is over the limit of its mode, 429 when there is no room for it, 408 when it takes too long, 400 when it breaks off.
    pub(super) async fn read(&self, body: &mut BodyDataStream, mode: Mode) -> Result<Read, Problem> {
        let (limit, bound) = mode.limit(self.max_body_bytes);
        let announced = body.size_hint().exact().map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        if let Some(bytes) = announced.filter(|bytes| *bytes > limit) {
            return Err(too_large(&bytes.to_string(), limit, bound).into());
        }
        let held = self.room(announced.unwrap_or(PIECE_BYTES))?;
        let reading = self.collect(body, limit, bound, announced, held);
        let late =
            || Problem::timeout(format!("the body was not there within {} ms (http_read_timeout_ms)", self.read_timeout_ms));
        timeout(Duration::from_millis(self.read_timeout_ms), reading).await.unwrap_or_else(|_| Err(late()))
    }

    async fn collect(
        &self,
        body: &mut BodyDataStream,
        limit: usize,
        bound: &str,
        announced: Option<usize>,
        mut held: OwnedSemaphorePermit,
    ) -> Result<Read, Problem> {
        let mut room = announced.unwrap_or(PIECE_BYTES);
        let mut read = Vec::with_capacity(room);
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|_| Refusal::Invalid("the body broke off before its end: send it again".into()))?;
            let bytes = read.len() + chunk.len();
            if bytes > limit {
                return Err(too_large(&format!("more than {limit}"), limit, bound).into());
            }
            while bytes > room {
                held.merge(self.room(PIECE_BYTES)?);
                room += PIECE_BYTES;
            }
            read.extend_from_slice(&chunk);
        }
        Ok(Read { body: read.into(), _held: held })
    }

    /// Reads what is left of a refused body and keeps nothing of it, within the bounds of time and bytes.
    pub(super) async fn discard(&self, body: &mut BodyDataStream) {
        if body.size_hint().lower() > MAX_DISCARDED_BYTES as u64 {
            return;
        }
        let reading = async {
            let mut bytes = 0;
            while let Some(Ok(chunk)) = body.next().await {
                bytes += chunk.len();
                if bytes > MAX_DISCARDED_BYTES {
                    break;
                }
            }
        };
        // In time or not: the answer is sent.
        let _ = timeout(Duration::from_millis(self.read_timeout_ms), reading).await;
    }

    fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        let full =
            || self.exhausted(format!("requests of {} bytes are being answered (http_max_held_bytes)", self.max_held_bytes));
        self.held.take(bytes).ok_or_else(full)
    }

    const fn exhausted(&self, what: String) -> Refusal {
        Refusal::Exhausted { what, retry_ms: self.retry_ms }
    }
}

fn too_large(bytes: &str, limit: usize, bound: &str) -> Refusal {
    Refusal::TooLarge(format!("body has {bytes} bytes; at most {limit} are accepted ({bound}): send a reference to it"))
}
