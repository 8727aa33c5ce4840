//! [`Events`] of MSG DB in memory.

use async_trait::async_trait;
use countersign_delivery::ports::deliveries::DeliveryKey;
use countersign_delivery::ports::events::{Events, Happening, Recorded};
use countersign_delivery::ports::{Clock, PortError};

use super::{Data, MemoryDeliveries};

impl Data {
    pub(super) fn add_event(&mut self, key: &DeliveryKey, happening: Happening) {
        self.last_event += 1;
        let (number, due) = (self.last_event, happening.at);
        self.events.insert(number, (Recorded { number, key: key.clone(), happening }, due));
    }
}

#[async_trait]
impl Events for MemoryDeliveries {
    async fn take(&self, lease_ms: u64, limit: u32) -> Result<Vec<Recorded>, PortError> {
        let (mut data, now) = (self.open_data()?, self.clock.now());
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let due = data.events.values_mut().filter(|(_, due)| *due <= now).take(limit);
        Ok(due
            .map(|(event, due)| {
                *due = now.plus_millis(lease_ms);
                event.clone()
            })
            .collect())
    }

    async fn published(&self, events: &[Recorded]) -> Result<(), PortError> {
        let mut data = self.open_data()?;
        for event in events {
            data.events.remove(&event.number);
        }
        Ok(())
    }

    async fn drop_oldest(&self, keep: u64) -> Result<u64, PortError> {
        let mut data = self.open_data()?;
        let before = data.events.len();
        let newest = data.events.keys().next_back().copied().unwrap_or(0);
        data.events.retain(|number, _| number.saturating_add(keep) > newest);
        Ok(u64::try_from(before - data.events.len()).unwrap_or(u64::MAX))
    }
}
