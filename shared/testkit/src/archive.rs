//! [`Archive`] in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use countersign_delivery::ports::archive::Archive;
use countersign_delivery::ports::claims::ClaimKey;
use countersign_delivery::ports::{Clock, PortError};
use countersign_delivery::{Fingerprint, MessageId, SubscriptionName, Timestamp};

use crate::clock::ManualClock;
use crate::switch::{self, Switch};

const WHAT: &str = "memory archive";

/// An archive in memory, whose own clock is the manual one; clones share it.
#[derive(Clone, Debug)]
pub struct MemoryArchive {
    clock: ManualClock,
    switch: Switch,
    data: Arc<Mutex<Data>>,
}

/// One effect of a message.
type Place = (SubscriptionName, MessageId, u32);

#[derive(Debug, Default)]
struct Data {
    lose_answers: u32,
    /// As what, and when.
    done: BTreeMap<Place, (Fingerprint, Timestamp)>,
}

impl MemoryArchive {
    /// Nothing is done yet.
    #[must_use]
    pub fn new(clock: &ManualClock) -> Self {
        Self { clock: clock.clone(), switch: Switch::default(), data: Arc::default() }
    }

    /// From now on every call fails as unavailable.
    pub fn go_down(&self) {
        self.switch.set_down(true);
    }

    /// Ends [`Self::go_down`].
    pub fn come_up(&self) {
        self.switch.set_down(false);
    }

    /// The next `calls` calls do their work, but their answers are lost.
    pub fn lose_answers(&self, calls: u32) {
        self.lock().lose_answers = calls;
    }

    fn lock(&self) -> MutexGuard<'_, Data> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call<T>(&self, step: impl FnOnce(&mut Data) -> T) -> Result<T, PortError> {
        self.switch.check(WHAT)?;
        let mut data = self.lock();
        let answer = step(&mut data);
        if data.lose_answers > 0 {
            data.lose_answers -= 1;
            return Err(switch::lost(WHAT));
        }
        Ok(answer)
    }
}

fn place(key: &ClaimKey) -> Place {
    (key.subscription.clone(), key.message_id, key.effect_epoch)
}

fn find(data: &Data, key: &ClaimKey) -> Option<Fingerprint> {
    if let Some((fingerprint, _)) = data.done.get(&place(key)) {
        return Some(fingerprint.clone());
    }
    let of_id = (key.subscription.clone(), key.message_id, 0)..=(key.subscription.clone(), key.message_id, u32::MAX);
    let mut others = data.done.range(of_id).map(|(_, (fingerprint, _))| fingerprint);
    others.find(|fingerprint| **fingerprint != key.fingerprint).cloned()
}

#[async_trait]
impl Archive for MemoryArchive {
    async fn find(&self, keys: &[ClaimKey]) -> Result<Vec<Option<Fingerprint>>, PortError> {
        self.call(|data| keys.iter().map(|key| find(data, key)).collect())
    }

    async fn record(&self, keys: &[ClaimKey]) -> Result<(), PortError> {
        let now = self.clock.now();
        self.call(|data| {
            for key in keys {
                data.done.entry(place(key)).or_insert_with(|| (key.fingerprint.clone(), now));
            }
        })
    }

    async fn forget(
        &self,
        subscription: &SubscriptionName,
        older_than_ms: u64,
        now: Timestamp,
        limit: u32,
    ) -> Result<u64, PortError> {
        let before = now.min(self.clock.now()).minus_millis(older_than_ms);
        self.call(|data| {
            let old = data
                .done
                .iter()
                .filter(|((of, id, _), (_, done_at))| of == subscription && id.minted_at() < before && *done_at < before);
            let old: Vec<_> = old.map(|(place, _)| place.clone()).take(limit as usize).collect();
            for place in &old {
                data.done.remove(place);
            }
            old.len() as u64
        })
    }
}
