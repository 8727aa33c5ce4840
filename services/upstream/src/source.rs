//! Bodies that are not stored, because the team's own tables can give them again.
//!
//! Such a message is stored with an empty body; its first publish uses the body at hand. Whenever it is published again its
//! [`MessageSource`] is asked, and what it gives must have the stored fingerprint. What is gone or changed is not published: for callback's
//! order that is the answer, and callback parks it; when there is no order yet (catching up, adoption) only its check is published, so that
//! callback finds no receipt and orders it.

pub(crate) mod rebuild;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use countersign_delivery::ports::messages::Numbered;
use countersign_delivery::{Fingerprint, IdempotencyKey, Message, MessageId};

/// Why a source cannot answer now.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// Gives the bodies of one type of message again.
#[async_trait]
pub trait MessageSource: Send + Sync {
    /// The body as it was first sent, byte for byte; `None`: what it was about is not there any more, for good.
    ///
    /// It is asked from several tasks at a time, and each time for at most `source_timeout_ms`.
    ///
    /// # Errors
    /// Not now: it is asked again later. A panic means the same.
    async fn rebuild(&self, wanted: &Wanted) -> Result<Option<Rebuilt>, SourceError>;
}

/// The message whose body is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its id.
    pub id: MessageId,
    /// Its business type.
    pub kind: String,
    /// Media type of the body.
    pub content_type: String,
    /// How the exchange routes it.
    pub routing_key: String,
    /// The caller's own headers.
    pub headers: BTreeMap<String, String>,
    /// The caller's own key.
    pub idempotency_key: Option<IdempotencyKey>,
}

/// A body that was made again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// 1 byte to `max_body_bytes`.
    pub body: Bytes,
    /// The fingerprint, if the message was sent with one of the caller's own; otherwise it is computed.
    pub fingerprint: Option<Fingerprint>,
}

/// All sources of a process, by message type.
#[derive(Clone, Default)]
pub(crate) struct Sources(BTreeMap<String, Arc<dyn MessageSource>>);

impl Sources {
    pub(crate) const fn none() -> Self {
        Self(BTreeMap::new())
    }

    pub(crate) fn add(&mut self, kind: String, source: Arc<dyn MessageSource>) {
        self.0.insert(kind, source);
    }

    fn of(&self, kind: &str) -> Option<&Arc<dyn MessageSource>> {
        self.0.get(kind)
    }

    /// The rows as the table gets them.
    pub(crate) fn as_stored<'a>(&self, batch: &'a [Numbered]) -> Cow<'a, [Numbered]> {
        if !batch.iter().any(|row| self.0.contains_key(&row.message.kind)) {
            return Cow::Borrowed(batch);
        }
        let stored = |row: &Numbered| {
            let body = if self.0.contains_key(&row.message.kind) { Bytes::new() } else { row.message.body.clone() };
            Numbered { seq: row.seq, message: Message { body, ..row.message.clone() } }
        };
        Cow::Owned(batch.iter().map(stored).collect())
    }
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests;
