//! A clock that stands still until a test moves it.

use std::sync::Arc;

use countersign_delivery::Timestamp;
use countersign_delivery::ports::Clock;
use tokio::sync::watch;

use crate::build;

/// A manual clock; clones show the same time. It begins at [`build::NOW`].
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<watch::Sender<Timestamp>>);

impl Default for ManualClock {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(build::NOW)))
    }
}

impl ManualClock {
    /// Moves forward by `millis` milliseconds and wakes whoever waits for it.
    pub fn advance(&self, millis: u64) {
        self.0.send_modify(|now| *now = now.plus_millis(millis));
    }

    /// Moves to a time, earlier ones included: wall clocks do jump.
    pub fn set(&self, now: Timestamp) {
        self.0.send_replace(now);
    }

    /// Tells of every move from now on.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Timestamp> {
        self.0.subscribe()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.borrow()
    }
}
