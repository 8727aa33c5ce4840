//! What the handler in Rust has seen: which messages how often, and how long after they were sent.
//!
//! It owes nothing to the services' own books: ids are counted in the handler's memory and written to a file when it stops.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use countersign_downstream::{Event, Failure, Handled, Handler, HandlerContext, Transaction, TransactionHandler, async_trait};
use serde::{Deserialize, Serialize};

/// The file that it writes when it stops, beside the process.
pub const FILE: &str = "tally.json";
/// A body begins with when its message was sent: microseconds since the Unix epoch, eight bytes, the most significant first.
const SENT_AT: usize = 8;

/// What was seen in all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Different messages.
    pub messages: u64,
    /// Calls; more than messages if one was handled again.
    pub calls: u64,
    /// From the send to the call, microseconds, of each call in order.
    pub delays_us: Vec<u64>,
    /// When the first and the last call came, microseconds since the Unix epoch; 0 if none did.
    pub first_us: u64,
    /// See `first_us`.
    pub last_us: u64,
}

impl Tally {
    /// Reads what a handler has left in its directory.
    ///
    /// # Errors
    /// When it has not stopped, or was killed.
    pub fn read(dir: &Path) -> anyhow::Result<Self> {
        let file = dir.join(FILE);
        let text = std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Whether each of so many messages was handled exactly once.
    pub(crate) fn once_each(&self, messages: u32) -> anyhow::Result<()> {
        let (handled, calls) = (self.messages, self.calls);
        ensure!(handled == u64::from(messages), "{messages} messages were sent, {handled} handled");
        ensure!(calls == handled, "{handled} messages were handled {calls} times");
        Ok(())
    }
}

/// A handler that counts and does nothing else.
#[derive(Debug, Default)]
pub struct Counting {
    seen: Mutex<Seen>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Seen {
    /// By hash, so that the books of a million stay small. Two messages of one hash would count as one that is missing: the run would fail.
    calls: HashMap<u64, u32>,
    delays_us: Vec<u64>,
    first_us: u64,
    last_us: u64,
}

#[async_trait]
impl Handler for &'static Counting {
    async fn handle(&self, message: &Event, context: &HandlerContext) -> Result<Handled, Failure> {
        self.count(message, context);
        Ok(Handled::Done)
    }
}

#[async_trait]
impl TransactionHandler for &'static Counting {
    async fn handle(&self, message: &Event, context: &HandlerContext, _: &Transaction) -> Result<Handled, Failure> {
        self.count(message, context);
        Ok(Handled::Done)
    }
}

impl Counting {
    fn count(&self, message: &Event, context: &HandlerContext) {
        self.note(&context.idempotency_key, &message.body);
    }

    /// Counts a call: what the message is known by, and its body.
    pub fn note(&self, key: &str, body: &[u8]) {
        let now_us = now_us();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen.calls.entry(self.hasher.hash_one(key)).or_default() += 1;
        seen.delays_us.push(now_us.saturating_sub(sent_at_us(body)));
        if seen.first_us == 0 {
            seen.first_us = now_us;
        }
        seen.last_us = seen.last_us.max(now_us);
    }

    /// What was seen so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        Tally {
            messages: seen.calls.len() as u64,
            calls: seen.calls.values().copied().map(u64::from).sum(),
            delays_us: seen.delays_us.clone(),
            first_us: seen.first_us,
            last_us: seen.last_us,
        }
    }

    /// Writes what was seen to [`FILE`].
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self) -> anyhow::Result<()> {
        Ok(std::fs::write(FILE, serde_json::to_vec(&self.tally())?)?)
    }
}

/// A body of so many bytes, at least [`SENT_AT`], that says when it was sent.
pub(crate) fn body(bytes: usize) -> Vec<u8> {
    let mut body = vec![b'x'; bytes.max(SENT_AT)];
    body[..SENT_AT].copy_from_slice(&now_us().to_be_bytes());
    body
}

/// When a body says that it was sent; 0 if it is too short.
pub(crate) fn sent_at_us(body: &[u8]) -> u64 {
    body.first_chunk().map_or(0, |first: &[u8; SENT_AT]| u64::from_be_bytes(*first))
}

/// Microseconds since the Unix epoch.
pub(crate) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_says_when_it_was_sent() {
        let before = now_us();
        let body = body(256);
        assert_eq!(body.len(), 256);
        assert!((before..=now_us()).contains(&sent_at_us(&body)));
        assert_eq!(sent_at_us(b"short"), 0);
    }

    #[test]
    fn a_message_that_is_missing_or_comes_twice_is_told() {
        let counting = Counting::default();
        for key in ["a", "b"] {
            counting.note(key, &body(16));
        }
        let tally = counting.tally();
        assert!(tally.once_each(2).is_ok() && tally.first_us > 0 && tally.first_us <= tally.last_us, "{tally:?}");
        assert!(tally.once_each(3).is_err_and(|error| error.to_string() == "3 messages were sent, 2 handled"));
        counting.note("b", &body(16));
        assert!(counting.tally().once_each(2).is_err_and(|error| error.to_string() == "2 messages were handled 3 times"));
    }
}
