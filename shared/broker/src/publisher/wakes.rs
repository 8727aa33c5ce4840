//! Which confirms have completed, in order.
//!
//! `FuturesUnordered` may stop early to be fair, and then looks as if nothing more were ready; judging a confirm needs the opposite: to know
//! that everything which completed before it has been seen. lapin completes a confirm and wakes before it completes the next one, so once
//! [`Wakes::take`] comes back empty, all completions before any that was seen have been seen.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(super) struct Wakes {
    ready: Mutex<Vec<usize>>,
    some: Notify,
}

struct SlotWaker {
    slot: usize,
    wakes: Arc<Wakes>,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut ready = self.wakes.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let first = ready.is_empty();
        ready.push(self.slot);
        drop(ready);
        if first {
            self.wakes.some.notify_one();
        }
    }
}

impl Wakes {
    /// One waker for each slot, to be used again and again.
    pub(super) fn signals(self: &Arc<Self>, slots: usize) -> Vec<Waker> {
        (0..slots).map(|slot| Waker::from(Arc::new(SlotWaker { slot, wakes: Arc::clone(self) }))).collect()
    }

    /// Returns when something may be ready.
    pub(super) async fn some(&self) {
        self.some.notified().await;
    }

    /// Swaps the list of woken slots into `into`, which must be empty. Slots may be named twice, or needlessly.
    pub(super) fn take(&self, into: &mut Vec<usize>) {
        std::mem::swap(&mut *self.ready.lock().unwrap_or_else(PoisonError::into_inner), into);
    }
}
