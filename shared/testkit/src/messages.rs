//! [`Messages`] in memory: upstream's tables, with the fence and the outbox.

mod outbox;
mod stored;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use countersign_delivery::outbox::{Entry, Status};
use countersign_delivery::ports::messages::{
    Entombed, Expiry, Heartbeat, IncarnationState, Inserted, Insertion, Messages, Numbered, Opened,
};
use countersign_delivery::ports::{Clock as _, PortError};
use countersign_delivery::topology::Mode;
use countersign_delivery::{IdempotencyKey, IncarnationId, MessageId, Position, Seq, StoredMessage, Timestamp, UpstreamName};

use crate::clock::ManualClock;
use crate::switch::{self, Switch};

const WHAT: &str = "memory messages";

/// Upstream's tables in memory; clones share them.
#[derive(Clone, Debug)]
pub struct MemoryMessages {
    switch: Switch,
    data: Arc<Mutex<Data>>,
    /// The clock of the database.
    clock: ManualClock,
    sweep_after_ms: u64,
}

impl Default for MemoryMessages {
    fn default() -> Self {
        Self::on(&ManualClock::default(), 300_000)
    }
}

#[derive(Debug, Default)]
struct Data {
    incarnations: BTreeMap<IncarnationId, (UpstreamName, Heartbeat)>,
    /// None: a tombstone.
    rows: BTreeMap<Position, Option<StoredMessage>>,
    /// The rows of mode `outbox`.
    entries: BTreeMap<Position, Entry>,
    lose_commits: u32,
    lost_are_committed: bool,
}

impl MemoryMessages {
    /// Empty, with this clock; rows of mode `outbox` are due `sweep_after_ms` milliseconds after they are stored or claimed.
    #[must_use]
    pub fn on(clock: &ManualClock, sweep_after_ms: u64) -> Self {
        Self { switch: Switch::default(), data: Arc::default(), clock: clock.clone(), sweep_after_ms }
    }

    /// From now on every call fails as unavailable.
    pub fn go_down(&self) {
        self.switch.set_down(true);
    }

    /// Ends [`Self::go_down`].
    pub fn come_up(&self) {
        self.switch.set_down(false);
    }

    /// The answers to the next `inserts` inserts are lost; whether they are `committed` is for [`Messages::entomb`] to find out.
    pub fn lose_commits(&self, inserts: u32, committed: bool) {
        let mut data = self.lock();
        (data.lose_commits, data.lost_are_committed) = (inserts, committed);
    }

    /// Commits what was inserted by a transaction that has been open since before the claim. Only a fence keeps it out.
    ///
    /// # Panics
    /// When the incarnation is not open, or a place is taken.
    pub fn commit_open_transaction(&self, incarnation: IncarnationId, batch: &[Numbered]) {
        let mut data = self.lock();
        let state = data.incarnations.get(&incarnation).map(|(_, heartbeat)| heartbeat.state);
        assert_eq!(state, Some(IncarnationState::Open), "a fence waits for it");
        let due_at = self.clock.now().plus_millis(self.sweep_after_ms);
        for row in batch {
            let inserted = data.insert_row(incarnation, row, due_at);
            assert!(matches!(inserted, Ok(Inserted::Stored)), "{inserted:?}");
        }
    }

    /// The heartbeat row of an incarnation, closed ones too.
    #[must_use]
    pub fn heartbeat(&self, incarnation: IncarnationId) -> Option<Heartbeat> {
        self.lock().incarnations.get(&incarnation).map(|(_, heartbeat)| heartbeat.clone())
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
    fn stored(&self) -> impl Iterator<Item = &StoredMessage> {
        self.rows.values().flatten()
    }

    fn by_key(&self, key: &IdempotencyKey) -> Option<&StoredMessage> {
        self.stored().find(|row| row.message.idempotency_key.as_ref() == Some(key))
    }

    /// The row's fate; writes it when it is to be stored.
    fn insert_row(&mut self, incarnation: IncarnationId, row: &Numbered, due_at: Timestamp) -> Result<Inserted, PortError> {
        let position = Position { incarnation, seq: row.seq };
        if let Some(known) = row.message.idempotency_key.as_ref().and_then(|key| self.by_key(key)) {
            let (id, position) = (known.message.id, known.position);
            let same = known.message.fingerprint == row.message.fingerprint;
            return Ok(if same { Inserted::Repeat { id, position } } else { Inserted::Conflict { id } });
        }
        if self.rows.contains_key(&position) {
            return Err(switch::refused(WHAT, format!("{position:?} is taken")));
        }
        if self.stored().any(|known| known.message.id == row.message.id) {
            return Err(switch::refused(WHAT, format!("{} is taken", row.message.id)));
        }
        if row.message.mode == Mode::Outbox {
            self.entries.insert(position, Entry { status: Status::Sending, tries: 0, due_at, reason: None });
        }
        self.rows.insert(position, Some(StoredMessage { position, message: row.message.clone() }));
        Ok(Inserted::Stored)
    }

    /// Until when everything was said to be settled at the latest, and by whom.
    fn latest(&self, upstream: &UpstreamName) -> Option<(Timestamp, IncarnationId)> {
        let own = self.incarnations.values().filter(|(of, _)| of == upstream);
        own.map(|(_, row)| (row.settled_until, row.incarnation)).max()
    }

    /// Deletes what is old among the `limit` lowest rows; returns how many those were.
    fn delete_page(&mut self, of: &Heartbeat, expiry: Expiry, limit: usize) -> usize {
        let closed = of.state == IncarnationState::Closed;
        let end = if closed { Seq(u64::MAX) } else { of.watermark };
        let place = |seq| Position { incarnation: of.incarnation, seq };
        let page = self.rows.range(place(Seq(0))..place(end)).filter(|(_, row)| closed || row.is_some());
        let unconfirmed = |position: &Position| self.entries.get(position).is_some_and(|entry| entry.status != Status::Confirmed);
        let page = page.filter(|(position, _)| !unconfirmed(position)).take(limit);
        let is_old = |row: &Option<StoredMessage>| row.as_ref().is_none_or(|row| row.message.sent_at < expiry.before());
        let old: Vec<Position> = page.filter(|(_, row)| is_old(row)).map(|(position, _)| *position).collect();
        for position in &old {
            self.rows.remove(position);
            self.entries.remove(position);
        }
        old.len()
    }

    fn set_state(&mut self, incarnation: IncarnationId, state: IncarnationState) {
        if let Some((_, heartbeat)) = self.incarnations.get_mut(&incarnation) {
            heartbeat.state = heartbeat.state.max(state);
        }
    }
}

#[async_trait]
impl Messages for MemoryMessages {
    async fn open(&self, upstream: &UpstreamName, incarnation: IncarnationId, now: Timestamp) -> Result<Opened, PortError> {
        let mut data = self.open_data()?;
        if data.incarnations.keys().any(|known| known.tag() == incarnation.tag()) {
            return Err(switch::refused(WHAT, format!("incarnation {incarnation}, or its tag, is taken")));
        }
        let (state, settled_until) = (IncarnationState::Open, now.min(self.clock.now()));
        let heartbeat = Heartbeat { incarnation, counter: 0, watermark: Seq::FIRST, settled_until, adopter: None, state };
        data.incarnations.insert(incarnation, (upstream.clone(), heartbeat));
        let promised = data.latest(upstream).map_or_else(Timestamp::default, |(promised, _)| promised);
        Ok(Opened { promised, now: self.clock.now() })
    }

    async fn insert(&self, incarnation: IncarnationId, batch: &[Numbered]) -> Result<Insertion, PortError> {
        let mut data = self.open_data()?;
        let heartbeat = data.incarnations.get(&incarnation).map(|(_, heartbeat)| heartbeat);
        if heartbeat.is_none_or(|row| row.state != IncarnationState::Open || row.adopter.is_some()) {
            return Ok(Insertion::Fenced);
        }
        let (before, due_at) = ((data.rows.clone(), data.entries.clone()), self.clock.now().plus_millis(self.sweep_after_ms));
        let inserted: Result<Vec<_>, _> = batch.iter().map(|row| data.insert_row(incarnation, row, due_at)).collect();
        let loses = data.lose_commits > 0;
        if inserted.is_err() || (loses && !data.lost_are_committed) {
            (data.rows, data.entries) = before;
        }
        if loses {
            data.lose_commits -= 1;
            return Err(switch::lost(WHAT));
        }
        inserted.map(Insertion::Committed)
    }

    async fn entomb(&self, position: Position) -> Result<Entombed, PortError> {
        let mut data = self.open_data()?;
        if !data.incarnations.contains_key(&position.incarnation) {
            return Ok(Entombed::RolledBack);
        }
        Ok(match data.rows.entry(position).or_insert(None) {
            Some(stored) => Entombed::Committed(Box::new(stored.clone())),
            None => Entombed::RolledBack,
        })
    }

    async fn beat(
        &self,
        incarnation: IncarnationId,
        counter: u64,
        watermark: Seq,
        settled_until: Timestamp,
    ) -> Result<bool, PortError> {
        let mut data = self.open_data()?;
        let Some((_, heartbeat)) = data.incarnations.get_mut(&incarnation) else { return Ok(false) };
        if heartbeat.adopter.is_some() {
            return Ok(false);
        }
        (heartbeat.counter, heartbeat.watermark) = (counter, watermark);
        heartbeat.settled_until = heartbeat.settled_until.max(settled_until.min(self.clock.now()));
        Ok(true)
    }

    async fn heartbeats(&self, upstream: &UpstreamName) -> Result<Vec<Heartbeat>, PortError> {
        let data = self.open_data()?;
        let open = data.incarnations.values().filter(|(of, row)| of == upstream && row.state != IncarnationState::Closed);
        Ok(open.map(|(_, heartbeat)| heartbeat.clone()).collect())
    }

    async fn adopt(&self, seen: &Heartbeat, adopter: IncarnationId) -> Result<bool, PortError> {
        let mut data = self.open_data()?;
        let Some((_, heartbeat)) = data.incarnations.get_mut(&seen.incarnation) else { return Ok(false) };
        let as_seen = heartbeat.counter == seen.counter && heartbeat.adopter == seen.adopter;
        if !as_seen || heartbeat.state == IncarnationState::Closed {
            return Ok(false);
        }
        heartbeat.adopter = Some(adopter);
        Ok(true)
    }

    async fn fence(&self, incarnation: IncarnationId) -> Result<(), PortError> {
        self.open_data()?.set_state(incarnation, IncarnationState::Fenced);
        Ok(())
    }

    async fn scan(&self, incarnation: IncarnationId, from: Seq, limit: u32) -> Result<Vec<StoredMessage>, PortError> {
        let data = self.open_data()?;
        let rows = data.rows.range(Position { incarnation, seq: from }..=Position { incarnation, seq: Seq(u64::MAX) });
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let rows = rows.filter(|(position, _)| !data.entries.contains_key(position));
        Ok(rows.filter_map(|(_, row)| row.clone()).take(limit).collect())
    }

    async fn at(&self, incarnation: IncarnationId, seqs: &[Seq]) -> Result<Vec<StoredMessage>, PortError> {
        let data = self.open_data()?;
        Ok(seqs.iter().filter_map(|seq| data.rows.get(&Position { incarnation, seq: *seq }).cloned().flatten()).collect())
    }

    async fn close(&self, incarnation: IncarnationId) -> Result<(), PortError> {
        self.open_data()?.set_state(incarnation, IncarnationState::Closed);
        Ok(())
    }

    async fn get(&self, ids: &[MessageId]) -> Result<Vec<StoredMessage>, PortError> {
        Ok(self.open_data()?.stored().filter(|row| ids.contains(&row.message.id)).cloned().collect())
    }

    async fn by_key(&self, key: &IdempotencyKey) -> Result<Option<StoredMessage>, PortError> {
        Ok(self.open_data()?.by_key(key).cloned())
    }

    async fn is_settled(&self, position: Position) -> Result<bool, PortError> {
        let data = self.open_data()?;
        let unclosed = data.incarnations.get(&position.incarnation).filter(|(_, row)| row.state != IncarnationState::Closed);
        Ok(unclosed.is_none_or(|(_, heartbeat)| position.seq < heartbeat.watermark))
    }

    async fn delete_expired(&self, upstream: &UpstreamName, expiry: Expiry, limit: u32) -> Result<u64, PortError> {
        let mut data = self.open_data()?;
        let own = data.incarnations.values().filter(|(of, _)| of == upstream);
        let own: Vec<Heartbeat> = own.map(|(_, heartbeat)| heartbeat.clone()).collect();
        let mut left = usize::try_from(limit).unwrap_or(usize::MAX);
        for heartbeat in own {
            left -= data.delete_page(&heartbeat, expiry, left);
            let Heartbeat { incarnation, state, .. } = heartbeat;
            let empty = !data.rows.keys().any(|position| position.incarnation == incarnation);
            let tells_the_promise = data.latest(upstream).is_some_and(|(_, of)| of == incarnation);
            if empty && state == IncarnationState::Closed && !tells_the_promise {
                data.incarnations.remove(&incarnation);
            }
        }
        Ok(u64::from(limit) - u64::try_from(left).unwrap_or(0))
    }
}
