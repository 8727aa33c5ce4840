//! Which upstreams there are: noted when their checks come by, once a process.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use countersign_delivery::UpstreamName;
use countersign_delivery::ports::reconciliation::Reconciliation;

/// Names that are remembered at most; checks are only published by upstreams, so there are few.
const NAMES_MAX: usize = 1_000;

/// The names of upstreams that this process has noted in MSG DB. Receipts are not asked: whoever signs may write any name into them.
pub struct Seen {
    books: Arc<dyn Reconciliation>,
    noted: Mutex<BTreeSet<UpstreamName>>,
}

impl Seen {
    /// Nobody has been seen yet.
    #[must_use]
    pub fn new(books: Arc<dyn Reconciliation>) -> Self {
        Self { books, noted: Mutex::default() }
    }

    /// Notes those that are new to this process. What cannot be written now is noted with the next check.
    pub async fn note<'a>(&self, upstreams: impl Iterator<Item = &'a UpstreamName>) {
        let new = self.unknown(upstreams);
        if new.is_empty() {
            return;
        }
        match self.books.note_upstreams(&new).await {
            Ok(()) => self.noted.lock().unwrap_or_else(PoisonError::into_inner).extend(new),
            Err(error) => tracing::warn!(%error, "an upstream could not be noted for reconciliation; the next check does it"),
        }
    }

    fn unknown<'a>(&self, upstreams: impl Iterator<Item = &'a UpstreamName>) -> Vec<UpstreamName> {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.len() >= NAMES_MAX {
            return Vec::new();
        }
        let new: BTreeSet<&UpstreamName> = upstreams.filter(|upstream| !noted.contains(*upstream)).collect();
        new.into_iter().cloned().collect()
    }
}
