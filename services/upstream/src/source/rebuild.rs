//! Stored messages with their bodies, asked from their sources where they are not stored.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use countersign_delivery::{Attempt, Fingerprint, Message, Seq};
use futures::{FutureExt as _, StreamExt as _};
use tokio::time::timeout;

use crate::check_queue::{Done, Scheduled};
use crate::desk::Desk;
use crate::ledger::{Again, Ledger, What};
use crate::source::{MessageSource, Rebuilt, Wanted};

/// Questions to sources at a time, of one batch.
const AT_A_TIME: usize = 8;

/// A stored message and its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Whole {
    /// With its body.
    Ready(Message),
    /// Its source gives another body than the one that was sent.
    Changed(Message),
    /// Its source has it no more.
    Gone(Message),
    /// Its source does not answer now, or this process has none. The text is for a human.
    NotNow(Message, String),
}

impl Whole {
    /// The message, with or without its body.
    pub(crate) const fn message(&self) -> &Message {
        match self {
            Self::Ready(message) | Self::Changed(message) | Self::Gone(message) | Self::NotNow(message, _) => message,
        }
    }
}

/// A stored message with its body. One that is stored with it costs nothing.
pub(crate) async fn whole(desk: &Desk, message: Message) -> Whole {
    if !message.body.is_empty() {
        return Whole::Ready(message);
    }
    let Some(source) = desk.sources.of(&message.kind) else {
        let words = format!("its body is not stored, and this process has no source for messages of type {:?}", message.kind);
        return Whole::NotNow(message, words);
    };
    match ask(source.as_ref(), &message, desk.config.source_timeout_ms).await {
        Err(words) => Whole::NotNow(message, words),
        Ok(None) => Whole::Gone(message),
        Ok(Some(rebuilt)) => judge(message, rebuilt, desk.config.max_body_bytes),
    }
}

/// All of them, in order.
pub(crate) async fn all(desk: &Desk, messages: Vec<Message>) -> Vec<Whole> {
    futures::stream::iter(messages).map(|message| whole(desk, message)).buffered(AT_A_TIME).collect().await
}

/// What is to be published again of one ledger: returns what can be. What is gone or changed gets its check alone; the rest waits.
pub(crate) async fn publishable(desk: &Desk, ledger: &Arc<Ledger>, rows: Vec<(Seq, Message)>) -> Vec<(Seq, Message)> {
    let (seqs, messages): (Vec<Seq>, Vec<Message>) = rows.into_iter().unzip();
    let (mut ready, mut checks) = (Vec::with_capacity(seqs.len()), Vec::new());
    for (seq, whole) in seqs.into_iter().zip(all(desk, messages).await) {
        match whole {
            Whole::Ready(message) => ready.push((seq, message)),
            Whole::Changed(message) | Whole::Gone(message) => {
                tracing::warn!(id = %message.id, "its source has changed or lost it: callback will order it, be told so, and park it");
                let done = Done::Settle(ledger.clone(), seq);
                checks.push(Scheduled::of(&message, Attempt::FIRST, message.required.clone(), done));
            }
            Whole::NotNow(message, why) => {
                tracing::warn!(id = %message.id, why, "cannot be published again yet");
                let again = Again { what: What::Message, bytes: desk.config.max_body_bytes };
                ledger.defer(seq, again, true, |tries| desk.republish_at(tries));
            }
        }
    }
    desk.checks.schedule(checks).await;
    ready
}

async fn ask(source: &dyn MessageSource, message: &Message, timeout_ms: u64) -> Result<Option<Rebuilt>, String> {
    let wanted = Wanted {
        id: message.id,
        kind: message.kind.clone(),
        content_type: message.content_type.clone(),
        routing_key: message.routing_key.clone(),
        headers: message.headers.clone(),
        idempotency_key: message.idempotency_key.clone(),
    };
    let asked = AssertUnwindSafe(async { source.rebuild(&wanted).await }).catch_unwind();
    match timeout(Duration::from_millis(timeout_ms), asked).await {
        Ok(Ok(Ok(rebuilt))) => Ok(rebuilt),
        Ok(Ok(Err(error))) => Err(format!("its source does not answer: {error}")),
        Ok(Err(_)) => Err("its source panicked".into()),
        Err(_) => Err(format!("its source has not answered within {timeout_ms} ms (source_timeout_ms)")),
    }
}

/// Whether it is what was sent. Pure.
fn judge(message: Message, rebuilt: Rebuilt, max_body_bytes: usize) -> Whole {
    let Rebuilt { body, fingerprint } = rebuilt;
    if body.is_empty() || body.len() > max_body_bytes {
        let words = format!("its source gives a body of {} bytes; 1 to {max_body_bytes} can be sent", body.len());
        return Whole::NotNow(message, words);
    }
    let fingerprint = fingerprint.unwrap_or_else(|| Fingerprint::of(&message.kind, &message.content_type, &body));
    if fingerprint == message.fingerprint { Whole::Ready(Message { body, ..message }) } else { Whole::Changed(message) }
}
