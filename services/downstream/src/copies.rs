//! Copies of messages on their way to a retry tier, a dead-letter queue or quarantine: published until the broker has them.

use std::sync::Arc;
use std::time::Duration;

use countersign_delivery::ports::broker::{Publication, Published, Publisher};

/// The first pause before a copy is published again; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Publishes copies.
#[derive(Clone)]
pub struct Copies(Arc<dyn Publisher>);

impl Copies {
    /// Copies through this publisher.
    #[must_use]
    pub fn new(publisher: Arc<dyn Publisher>) -> Self {
        Self(publisher)
    }

    /// Returns when the broker has confirmed the copy. Tries without end: the caller drops it at hard stop, and the original is not acked.
    pub async fn put(&self, copy: Publication) {
        let mut pause = PAUSE_MIN;
        loop {
            let published = self.0.publish(vec![copy.clone()]).await;
            let outcome = published.first().unwrap_or(&Published::Unknown);
            if *outcome == Published::Confirmed {
                return;
            }
            tracing::warn!(?outcome, queue = %copy.routing_key, "a copy is not confirmed, publishing it again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}
