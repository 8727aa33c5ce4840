//! Bounds on bodies in memory.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes are counted in pieces of this size.
const PIECE_BYTES: usize = 1024;
/// What a message takes beside its body: names, headers, its task, its place among the unconfirmed. Measured 2.3 kB with a body of 256 bytes.
const BESIDE_BODY_BYTES: usize = 2 * 1024;

/// A bound on bodies in memory.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    pieces: Arc<Semaphore>,
    all: u32,
}

impl Room {
    /// Room for so many bytes.
    pub(crate) fn of(bytes: usize) -> Self {
        let all = u32::try_from(bytes / PIECE_BYTES).unwrap_or(u32::MAX).max(1);
        Self { pieces: Arc::new(Semaphore::new(usize::try_from(all).unwrap_or(usize::MAX))), all }
    }

    fn pieces_of(&self, bytes: usize) -> u32 {
        u32::try_from((bytes + BESIDE_BODY_BYTES) / PIECE_BYTES + 1).unwrap_or(u32::MAX).min(self.all)
    }

    /// Room for a body, if there is some at once.
    pub(crate) fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.pieces.clone().try_acquire_many_owned(self.pieces_of(bytes)).ok()
    }

    /// Room for all of these bodies, as soon as there is some: all at once, so that no two callers hold what the other needs.
    pub(crate) async fn wait_for_all(&self, bodies: &[usize]) -> Option<Vec<OwnedSemaphorePermit>> {
        let pieces: Vec<u32> = bodies.iter().map(|bytes| self.pieces_of(*bytes)).collect();
        let sum = pieces.iter().fold(0_u32, |sum, more| sum.saturating_add(*more));
        if sum > self.all {
            return None;
        }
        let mut room = self.pieces.clone().acquire_many_owned(sum).await.ok()?;
        pieces.iter().map(|pieces| room.split(usize::try_from(*pieces).unwrap_or(usize::MAX))).collect()
    }

    /// Whether nothing is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.available_permits() >= usize::try_from(self.all).unwrap_or(usize::MAX)
    }
}
