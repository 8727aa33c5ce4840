//! [`DeadLetters`] in memory, beside [`MemoryDeliveries`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use countersign_delivery::ports::dead_letters::{Closing, DeadLetters, Filter, Letter, NewLetter, Place, State};
use countersign_delivery::ports::deliveries::DeliveryKey;
use countersign_delivery::ports::{Clock as _, PortError};
use countersign_delivery::{MessageId, Timestamp};

use crate::clock::ManualClock;
use crate::deliveries::MemoryDeliveries;
use crate::switch::Switch;

const WHAT: &str = "memory dead letters";

/// Dead letters in memory; clones share them. Their clock is the manual one.
#[derive(Clone, Debug)]
pub struct MemoryDeadLetters {
    clock: ManualClock,
    deliveries: MemoryDeliveries,
    switch: Switch,
    data: Arc<Mutex<BTreeMap<u64, Kept>>>,
}

#[derive(Clone, Debug)]
struct Kept {
    letter: NewLetter,
    taken_in_at: Timestamp,
    closed: Option<(Closing, Timestamp)>,
}

impl MemoryDeadLetters {
    /// Empty.
    #[must_use]
    pub fn new(clock: &ManualClock, deliveries: &MemoryDeliveries) -> Self {
        Self { clock: clock.clone(), deliveries: deliveries.clone(), switch: Switch::default(), data: Arc::default() }
    }

    /// From now on every call fails as unavailable.
    pub fn go_down(&self) {
        self.switch.set_down(true);
    }

    /// Ends [`Self::go_down`].
    pub fn come_up(&self) {
        self.switch.set_down(false);
    }

    fn reach(&self) -> Result<MutexGuard<'_, BTreeMap<u64, Kept>>, PortError> {
        self.switch.check(WHAT)?;
        Ok(self.data.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn state(&self, kept: &Kept) -> State {
        match &kept.closed {
            Some((closing, at)) => State::Closed { closing: closing.clone(), at: *at },
            None if self.is_done(&kept.letter) => State::Settled,
            None => State::Open,
        }
    }

    fn is_done(&self, letter: &NewLetter) -> bool {
        let (Some(subscription), Ok(message_id)) = (letter.subscription.clone(), MessageId::parse(&letter.label.message_id))
        else {
            return false;
        };
        let row = self.deliveries.row(&DeliveryKey { message_id, subscription });
        row.is_some_and(|row| row.is_done() && row.facts.fingerprint.to_hex() == letter.label.fingerprint)
    }

    fn selects(&self, filter: &Filter, kept: &Kept) -> bool {
        let label = &kept.letter.label;
        let among = |wanted: bool, empty: bool| wanted || empty;
        let in_time = |holds: &dyn Fn(Timestamp) -> bool| label.died_at.is_some_and(holds);
        let here = match &filter.place {
            Place::Anywhere => true,
            Place::Of(name) => kept.letter.subscription.as_ref() == Some(name),
            Place::Quarantine => kept.letter.subscription.is_none(),
        };
        here && among(filter.states.contains(self.state(kept).as_str()), filter.states.is_empty())
            && among(filter.reasons.contains(label.reason.as_str()), filter.reasons.is_empty())
            && among(filter.kind == label.kind, filter.kind.is_empty())
            && among(filter.message_ids.contains(&label.message_id), filter.message_ids.is_empty())
            && among(filter.upstream == label.upstream, filter.upstream.is_empty())
            && filter.died_after.is_none_or(|after| in_time(&|died| died >= after))
            && filter.died_before.is_none_or(|before| in_time(&|died| died < before))
    }
}

#[async_trait]
impl DeadLetters for MemoryDeadLetters {
    async fn take_in(&self, letters: &[NewLetter]) -> Result<u64, PortError> {
        let (mut data, taken_in_at) = (self.reach()?, self.clock.now());
        let mut new = 0;
        for letter in letters {
            if data.values().any(|kept| kept.letter.identity == letter.identity) {
                continue;
            }
            let number = data.last_key_value().map_or(1, |(number, _)| number + 1);
            data.insert(number, Kept { letter: letter.clone(), taken_in_at, closed: None });
            new += 1;
        }
        Ok(new)
    }

    async fn waiting(&self, most: u64) -> Result<u64, PortError> {
        let waiting = self.reach()?.values().filter(|kept| kept.closed.is_none()).count();
        Ok(u64::try_from(waiting).unwrap_or(u64::MAX).min(most))
    }

    async fn latest(&self) -> Result<u64, PortError> {
        Ok(self.reach()?.last_key_value().map_or(0, |(number, _)| *number))
    }

    async fn list(&self, filter: &Filter, after: u64, limit: u32) -> Result<Vec<Letter>, PortError> {
        let data = self.reach()?;
        let found = data.range(after.saturating_add(1)..).filter(|(_, kept)| self.selects(filter, kept));
        let letters = found.take(usize::try_from(limit).unwrap_or(usize::MAX)).map(|(number, kept)| Letter {
            number: *number,
            subscription: kept.letter.subscription.clone(),
            packed: kept.letter.packed.clone(),
            body_bytes: u64::try_from(kept.letter.body.len()).unwrap_or(u64::MAX),
            taken_in_at: kept.taken_in_at,
            state: self.state(kept),
        });
        Ok(letters.collect())
    }

    async fn bodies(&self, numbers: &[u64]) -> Result<Vec<Option<Bytes>>, PortError> {
        let data = self.reach()?;
        Ok(numbers.iter().map(|number| data.get(number).map(|kept| kept.letter.body.clone())).collect())
    }

    async fn close(&self, closed: &[(u64, Closing)]) -> Result<(), PortError> {
        let (mut data, now) = (self.reach()?, self.clock.now());
        for (number, closing) in closed {
            let Some(kept) = data.get_mut(number) else { continue };
            let is_discarded = kept.closed.as_ref().is_some_and(|(closing, _)| closing.epoch.is_none());
            if !is_discarded {
                kept.closed = Some((closing.clone(), now));
            }
        }
        Ok(())
    }

    async fn delete_settled(&self, before: Timestamp, limit: u32) -> Result<u64, PortError> {
        let mut data = self.reach()?;
        let old = |kept: &Kept| match self.state(kept) {
            State::Open => false,
            State::Settled => MessageId::parse(&kept.letter.label.message_id).is_ok_and(|id| id.minted_at() < before),
            State::Closed { at, .. } => at < before,
        };
        let numbers = data.iter().filter(|(_, kept)| old(kept)).map(|(number, _)| *number);
        let numbers: Vec<u64> = numbers.take(usize::try_from(limit).unwrap_or(usize::MAX)).collect();
        data.retain(|number, _| !numbers.contains(number));
        Ok(u64::try_from(numbers.len()).unwrap_or(u64::MAX))
    }
}
