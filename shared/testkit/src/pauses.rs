//! [`Pauses`] in memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use countersign_delivery::SubscriptionName;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::pauses::{Pause, Pauses};

use crate::switch::Switch;

const WHAT: &str = "memory pauses";

/// Pauses in memory; clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemoryPauses {
    switch: Switch,
    data: Arc<Mutex<HashMap<SubscriptionName, Pause>>>,
}

impl MemoryPauses {
    /// From now on every call fails as unavailable.
    pub fn go_down(&self) {
        self.switch.set_down(true);
    }

    /// Ends [`Self::go_down`].
    pub fn come_up(&self) {
        self.switch.set_down(false);
    }

    fn reach(&self) -> Result<MutexGuard<'_, HashMap<SubscriptionName, Pause>>, PortError> {
        self.switch.check(WHAT)?;
        Ok(self.data.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Pauses for MemoryPauses {
    async fn set(&self, subscription: &SubscriptionName, pause: &Pause) -> Result<(), PortError> {
        self.reach()?.insert(subscription.clone(), pause.clone());
        Ok(())
    }

    async fn clear(&self, subscription: &SubscriptionName) -> Result<bool, PortError> {
        Ok(self.reach()?.remove(subscription).is_some())
    }

    async fn get(&self, subscriptions: &[SubscriptionName]) -> Result<Vec<Option<Pause>>, PortError> {
        let data = self.reach()?;
        Ok(subscriptions.iter().map(|subscription| data.get(subscription).cloned()).collect())
    }
}
