//! What the handler in Rust has seen: which messages how often, and how long after they were sent.
//!
//! It owes nothing to the services' own books: ids are counted in the handler's memory and written to a file when it stops.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
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
}

/// A handler that counts and does nothing else.
#[derive(Debug, Default)]
pub struct Counting(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    calls: HashMap<String, u32>,
    delays_us: Vec<u64>,
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
        let delay_us = now_us().saturating_sub(sent_at_us(&message.body));
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *seen.calls.entry(context.idempotency_key.clone()).or_default() += 1;
        seen.delays_us.push(delay_us);
    }

    /// Writes what was seen to [`FILE`].
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self) -> anyhow::Result<()> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let tally = Tally {
            messages: u64::try_from(seen.calls.len())?,
            calls: seen.calls.values().copied().map(u64::from).sum(),
            delays_us: seen.delays_us.clone(),
        };
        Ok(std::fs::write(FILE, serde_json::to_vec(&tally)?)?)
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
}
