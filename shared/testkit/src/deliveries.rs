//! [`Deliveries`] and [`Events`](countersign_delivery::ports::events::Events) in memory: MSG DB, by [`state::next`] and nothing else.

mod events;

mod reconciliation;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use countersign_delivery::ports::deliveries::{
    Change, Counts, Deleted, Deliveries, DeliveryKey, Filter, HistoryLine, UNSIGNED, state_word,
};
use countersign_delivery::ports::events::{Happening, Recorded};
use countersign_delivery::ports::{Clock, PortError};
use countersign_delivery::probe::{Lane, NextProbe, Probe};
use countersign_delivery::receipt::ProbeAnswer;
use countersign_delivery::state::{self, Command, Illegal, Transition};
use countersign_delivery::{Delivery, MessageId, Timestamp, UpstreamName};

use crate::clock::ManualClock;
use crate::switch::{self, Switch};

const WHAT: &str = "memory deliveries";

/// How many probes of a lane are handed out.
const RECENT_PROBES: usize = 64;

/// MSG DB in memory; clones share it. Its clock is the manual one.
#[derive(Clone, Debug)]
pub struct MemoryDeliveries {
    clock: ManualClock,
    overdue_ms: u64,
    switch: Switch,
    data: Arc<Mutex<Data>>,
}

#[derive(Debug, Default)]
struct Data {
    rows: BTreeMap<DeliveryKey, Delivery>,
    history: HashMap<DeliveryKey, Vec<HistoryLine>>,
    probes: HashMap<Lane, Vec<Probe>>,
    /// Each with the end of its lease.
    events: BTreeMap<u64, (Recorded, Timestamp)>,
    last_event: u64,
    forgotten_before: Timestamp,
    upstreams: BTreeMap<UpstreamName, reconciliation::Kept>,
    lose_answers: u32,
    /// Probes are answered as soon as they are stored.
    answer_probes: bool,
}

impl MemoryDeliveries {
    /// Empty; `overdue_ms` is the policy's figure of that name.
    #[must_use]
    pub fn new(clock: &ManualClock, overdue_ms: u64) -> Self {
        Self { clock: clock.clone(), overdue_ms, switch: Switch::default(), data: Arc::default() }
    }

    /// From now on every call fails as unavailable.
    pub fn go_down(&self) {
        self.switch.set_down(true);
    }

    /// Ends [`Self::go_down`].
    pub fn come_up(&self) {
        self.switch.set_down(false);
    }

    /// The next `batches` of [`Deliveries::apply`] are written, but their answers are lost.
    pub fn lose_answers(&self, batches: u32) {
        self.lock().lose_answers = batches;
    }

    /// From now on every probe is answered as soon as it is stored, or none is.
    pub fn answer_probes(&self, answer: bool) {
        self.lock().answer_probes = answer;
    }

    /// One row, without the detour over the port.
    #[must_use]
    pub fn row(&self, key: &DeliveryKey) -> Option<Delivery> {
        self.lock().rows.get(key).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Data> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_data(&self) -> Result<MutexGuard<'_, Data>, PortError> {
        self.switch.check(WHAT)?;
        Ok(self.lock())
    }
}

impl Data {
    fn apply(&mut self, change: &Change<'_>, overdue_ms: u64, now: Timestamp) -> Result<Option<Delivery>, Illegal> {
        let current = self.rows.get(&change.key);
        match state::next(current, &change.event, overdue_ms, now)? {
            Transition::Unchanged => Ok(current.cloned()),
            Transition::Moved { to, noted } => {
                if noted {
                    let line = HistoryLine::of(&change.event, &to, now);
                    if let Some(happening) = Happening::of(&change.event, &to, &line) {
                        self.add_event(&change.key, happening);
                    }
                    self.history.entry(change.key.clone()).or_default().push(line);
                }
                self.rows.insert(change.key.clone(), (*to).clone());
                Ok(Some(*to))
            }
        }
    }
}

fn first<'a>(rows: impl Iterator<Item = (&'a DeliveryKey, &'a Delivery)>, limit: u32) -> Vec<(DeliveryKey, Delivery)> {
    rows.take(usize::try_from(limit).unwrap_or(usize::MAX)).map(|(key, row)| (key.clone(), row.clone())).collect()
}

#[async_trait]
impl Deliveries for MemoryDeliveries {
    async fn now(&self) -> Result<Timestamp, PortError> {
        self.switch.check(WHAT).map(|()| self.clock.now())
    }

    async fn apply(&self, changes: &[Change<'_>]) -> Result<Vec<Result<Option<Delivery>, Illegal>>, PortError> {
        let (mut data, now) = (self.open_data()?, self.clock.now());
        let applied = changes.iter().map(|change| data.apply(change, self.overdue_ms, now)).collect();
        if data.lose_answers > 0 {
            data.lose_answers -= 1;
            return Err(switch::lost(WHAT));
        }
        Ok(applied)
    }

    async fn look_up(&self, keys: &[DeliveryKey]) -> Result<Vec<Option<Delivery>>, PortError> {
        let data = self.open_data()?;
        Ok(keys.iter().map(|key| data.rows.get(key).cloned()).collect())
    }

    async fn overdue(&self, limit: u32) -> Result<Vec<(DeliveryKey, Delivery)>, PortError> {
        let (data, now) = (self.open_data()?, self.clock.now());
        let mut due: Vec<_> = data.rows.iter().filter(|(_, row)| row.due_at.is_some_and(|due| due <= now)).collect();
        due.sort_by_key(|(_, row)| row.due_at);
        Ok(first(due.into_iter(), limit))
    }

    async fn list(&self, filter: &Filter, limit: u32) -> Result<Vec<(DeliveryKey, Delivery)>, PortError> {
        let data = self.open_data()?;
        let wanted = |(key, row): &(&DeliveryKey, &Delivery)| {
            (filter.states.is_empty() || filter.states.iter().any(|word| word == state_word(row)))
                && filter.subscription.as_ref().is_none_or(|only| key.subscription == *only)
                && filter.after.as_ref().is_none_or(|after| *key > after)
        };
        Ok(first(data.rows.iter().filter(wanted), limit))
    }

    async fn counts(&self, most: u32) -> Result<Counts, PortError> {
        let data = self.open_data()?;
        let mut counts = Counts::default();
        let add = |figures: &mut BTreeMap<String, u64>, word: &str| {
            let figure = figures.entry(word.to_owned()).or_default();
            *figure = (*figure + 1).min(most.into());
        };
        for row in data.rows.values().filter(|row| state_word(row) != "done") {
            let word = state_word(row);
            add(&mut counts.states, word);
            if let ("parked", Command::Parked { reason, .. }) = (word, &row.command) {
                add(&mut counts.parked, reason.as_str());
            }
            if UNSIGNED.contains(&word) {
                let sent_at = row.facts.sent_at;
                counts.oldest_unsigned = Some(counts.oldest_unsigned.map_or(sent_at, |oldest| oldest.min(sent_at)));
            }
        }
        Ok(counts)
    }

    async fn of_message(&self, id: MessageId) -> Result<Vec<(DeliveryKey, Delivery)>, PortError> {
        let data = self.open_data()?;
        Ok(first(data.rows.iter().filter(|(key, _)| key.message_id == id), u32::MAX))
    }

    async fn history(&self, key: &DeliveryKey) -> Result<Vec<HistoryLine>, PortError> {
        Ok(self.open_data()?.history.get(key).cloned().unwrap_or_default())
    }

    async fn probes(&self, lanes: &[Lane]) -> Result<Vec<Vec<Probe>>, PortError> {
        let data = self.open_data()?;
        let recent = |lane| {
            let probes = data.probes.get(lane).map(Vec::as_slice).unwrap_or_default();
            probes[probes.len().saturating_sub(RECENT_PROBES)..].to_vec()
        };
        Ok(lanes.iter().map(recent).collect())
    }

    async fn store_probe(&self, lane: &Lane, probe: NextProbe) -> Result<bool, PortError> {
        let (mut data, stored_at) = (self.open_data()?, self.clock.now());
        let answered_at = data.answer_probes.then_some(stored_at);
        let probes = data.probes.entry(lane.clone()).or_default();
        if probes.iter().any(|stored| stored.number == probe.number) {
            return Ok(false);
        }
        probes.push(Probe { number: probe.number, floor: probe.floor, stored_at, answered_at });
        probes.sort_by_key(|probe| probe.number);
        Ok(true)
    }

    async fn probes_answered(&self, answers: &[ProbeAnswer]) -> Result<(), PortError> {
        let (mut data, now) = (self.open_data()?, self.clock.now());
        for answer in answers {
            let probes = data.probes.get_mut(&answer.lane).into_iter().flatten();
            for probe in probes.filter(|probe| probe.number == answer.number) {
                probe.answered_at.get_or_insert(now);
            }
        }
        Ok(())
    }

    async fn delete_settled(&self, before: Timestamp, after: Option<&DeliveryKey>, limit: u32) -> Result<Deleted, PortError> {
        let mut data = self.open_data()?;
        let old = |key: &&DeliveryKey| key.message_id.minted_at() < before && after.is_none_or(|after| *key > after);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let page: Vec<DeliveryKey> = data.rows.keys().filter(old).take(limit).cloned().collect();
        let last = page.last().cloned();
        let settled = |key: &DeliveryKey| data.rows.get(key).is_some_and(|row| matches!(state_word(row), "done" | "discarded"));
        let settled: Vec<DeliveryKey> = page.into_iter().filter(settled).collect();
        if !settled.is_empty() {
            data.forgotten_before = data.forgotten_before.max(before);
        }
        for key in &settled {
            data.rows.remove(key);
            data.history.remove(key);
        }
        Ok(Deleted { rows: u64::try_from(settled.len()).unwrap_or(u64::MAX), last })
    }

    async fn forgotten_before(&self) -> Result<Timestamp, PortError> {
        Ok(self.open_data()?.forgotten_before)
    }
}
