//! Identities that a test can name beforehand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use countersign_delivery::ports::Ids;
use uuid::Uuid;

use crate::build;

/// Hands out [`build::uuid`] of 1, 2, 3, …; clones share the count.
#[derive(Clone, Debug, Default)]
pub struct CountingIds(Arc<AtomicU64>);

impl CountingIds {
    /// Begins after `last`, so that its ids do not meet others.
    #[must_use]
    pub fn after(last: u64) -> Self {
        Self(Arc::new(AtomicU64::new(last)))
    }
}

impl Ids for CountingIds {
    fn uuid(&self) -> Uuid {
        build::uuid(self.0.fetch_add(1, Ordering::Relaxed) + 1)
    }
}
