//! [`Claims`] in memory, by the rules of the Redis scripts.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use countersign_delivery::ports::claims::{Claim, ClaimKey, Claimed, Claims, Held};
use countersign_delivery::ports::{Clock, PortError};
use countersign_delivery::{Fingerprint, MessageId, SubscriptionName, Timestamp};

use crate::clock::ManualClock;
use crate::switch::{self, Switch};

/// How long a record of starts is remembered, milliseconds.
pub const RETENTION_MS: u64 = 7 * 24 * 3_600_000;

const WHAT: &str = "memory claims";

/// Claims in memory; clones share them. Leases and retention end by the manual clock.
#[derive(Clone, Debug)]
pub struct MemoryClaims {
    clock: ManualClock,
    switch: Switch,
    data: Arc<Mutex<Data>>,
}

#[derive(Debug, Default)]
struct Data {
    lose_answers: u32,
    /// Since when nothing has been lost as a whole.
    since: Timestamp,
    /// Tokens, and how long their claims last.
    owners: HashMap<ClaimKey, (String, Timestamp)>,
    records: BTreeMap<Place, (Record, Timestamp)>,
}

/// One effect of a message.
type Place = (SubscriptionName, MessageId, u32);

#[derive(Clone, Debug)]
struct Record {
    fingerprint: Fingerprint,
    /// The largest that claimed; starts are counted from its first claim on.
    epoch: u32,
    /// A start of an earlier epoch was left unfinished.
    before: bool,
    starts: u32,
    /// Starts that were neither completed nor given back.
    open: u32,
    done: bool,
    /// Who started last.
    last: Option<String>,
    /// Who gave it back last.
    gave: Option<String>,
    /// Who completed it, while it was still theirs.
    by: Option<String>,
    /// Whoever started last knows that an earlier start may have had its effect.
    told: bool,
}

impl Record {
    fn new(fingerprint: &Fingerprint) -> Self {
        let fingerprint = fingerprint.clone();
        Self {
            fingerprint,
            epoch: 0,
            before: false,
            starts: 0,
            open: 0,
            done: false,
            last: None,
            gave: None,
            by: None,
            told: false,
        }
    }

    /// Whether somebody has begun and nobody knows how it ended, or somebody is at it.
    const fn unexplained(&self) -> bool {
        self.open > 0 || self.before
    }

    /// Whether it keeps the id for its fingerprint.
    const fn stands(&self) -> bool {
        self.done || self.unexplained()
    }

    /// A larger epoch starts afresh; what was left unfinished may have had its effect.
    fn enter(self, epoch: u32) -> Self {
        if epoch <= self.epoch {
            return self;
        }
        Self { epoch, before: self.unexplained(), starts: 0, open: 0, last: None, ..self }
    }
}

impl MemoryClaims {
    /// No claims yet.
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

    /// Loses everything, as a Redis without persistence does when it restarts.
    pub fn forget_everything(&self) {
        *self.lock() = Data { since: self.clock.now(), ..Data::default() };
    }

    fn lock(&self) -> MutexGuard<'_, Data> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn each<T>(&self, claims: &[Claim], mut step: impl FnMut(&mut Data, &Claim, Timestamp) -> T) -> Result<Vec<T>, PortError> {
        self.switch.check(WHAT)?;
        let (mut data, now) = (self.lock(), self.clock.now());
        data.owners.retain(|_, (_, until)| *until > now);
        data.records.retain(|_, (_, until)| *until > now);
        let answers = claims.iter().map(|claim| step(&mut data, claim, now)).collect();
        if data.lose_answers > 0 {
            data.lose_answers -= 1;
            return Err(switch::lost(WHAT));
        }
        Ok(answers)
    }
}

fn place(key: &ClaimKey) -> Place {
    (key.subscription.clone(), key.message_id, key.effect_epoch)
}

impl Data {
    fn owned_by(&self, claim: &Claim) -> bool {
        self.owners.get(&claim.key).is_some_and(|(token, _)| *token == claim.token)
    }

    /// Whether another fingerprint has this id, by whatever effect.
    fn is_known_otherwise(&self, key: &ClaimKey) -> bool {
        let of_id = (key.subscription.clone(), key.message_id, 0)..=(key.subscription.clone(), key.message_id, u32::MAX);
        self.records.range(of_id).any(|(_, (record, _))| record.fingerprint != key.fingerprint && record.stands())
    }

    fn claim(&mut self, claim: &Claim, lease_ms: u64, now: Timestamp) -> Claimed {
        let owner = self.owners.get(&claim.key).cloned();
        let fingerprint = &claim.key.fingerprint;
        if self.is_known_otherwise(&claim.key) {
            return Claimed::Conflict;
        }
        let known = self.records.get(&place(&claim.key)).map(|(record, _)| record.clone());
        let mut record = match known {
            Some(record) if record.fingerprint == *fingerprint && record.done => return Claimed::Done,
            Some(record) if record.fingerprint == *fingerprint => record,
            _ => Record::new(fingerprint),
        };
        if let Some((token, until)) = owner
            && token != claim.token
        {
            return Claimed::Held { for_ms: until.millis_since(now) };
        }
        record = record.enter(claim.epoch);
        if record.last.as_ref() != Some(&claim.token) {
            record.starts += 1;
            record.open += 1;
        }
        record.last = Some(claim.token.clone());
        record.gave = record.gave.filter(|token| *token != claim.token);
        record.told = record.open > 1 || record.before;
        let (starts, crashes, before) = (record.starts, record.open.saturating_sub(1), record.before);
        self.owners.insert(claim.key.clone(), (claim.token.clone(), now.plus_millis(lease_ms)));
        self.records.insert(place(&claim.key), (record, now.plus_millis(RETENTION_MS)));
        match crashes {
            0 if !before && claim.again && claim.key.message_id.minted_at() < self.since => Claimed::Forgotten { starts },
            0 if !before => Claimed::Fresh { starts },
            _ => Claimed::Interrupted { starts, crashes },
        }
    }

    fn renew(&mut self, claim: &Claim, lease_ms: u64, now: Timestamp) -> Held {
        if !self.owned_by(claim) {
            return Held::Lost;
        }
        self.owners.insert(claim.key.clone(), (claim.token.clone(), now.plus_millis(lease_ms)));
        if let Some((_, until)) = self.records.get_mut(&place(&claim.key)) {
            *until = now.plus_millis(RETENTION_MS);
        }
        Held::Ours
    }

    fn complete(&mut self, claim: &Claim, retention_ms: u64, now: Timestamp) -> Held {
        let until = now.plus_millis(retention_ms);
        let ours = self.owned_by(claim);
        self.owners.remove(&claim.key);
        let (record, expiry) =
            self.records.entry(place(&claim.key)).or_insert_with(|| (Record::new(&claim.key.fingerprint), until));
        let nobody_since = ours || record.last.as_ref() == Some(&claim.token);
        let again = record.done && record.fingerprint == claim.key.fingerprint;
        let by = if again { record.by.take() } else { nobody_since.then(|| claim.token.clone()) };
        let (epoch, starts, told) = (record.epoch, record.starts, record.told);
        let held = if told || by.as_ref() == Some(&claim.token) { Held::Ours } else { Held::Lost };
        *record = Record { epoch, starts, done: true, by, told, ..Record::new(&claim.key.fingerprint) };
        *expiry = until;
        held
    }

    fn release(&mut self, claim: &Claim, now: Timestamp) -> Held {
        let (ours, owned) = (self.owned_by(claim), self.owners.contains_key(&claim.key));
        let record = self.records.get_mut(&place(&claim.key)).filter(|(record, _)| record.fingerprint == claim.key.fingerprint);
        if let Some((record, until)) = record {
            if !ours && record.gave.as_ref() == Some(&claim.token) {
                return Held::Ours;
            }
            if ours {
                record.gave = Some(claim.token.clone());
            }
            if record.last.as_ref() == Some(&claim.token) && (ours || !owned) {
                record.open = record.open.saturating_sub(1);
                record.last = None;
                *until = now.plus_millis(RETENTION_MS);
            }
        }
        if !ours {
            return Held::Lost;
        }
        self.owners.remove(&claim.key);
        Held::Ours
    }
}

#[async_trait]
impl Claims for MemoryClaims {
    async fn claim(&self, claims: &[Claim], lease_ms: u64) -> Result<Vec<Claimed>, PortError> {
        self.each(claims, |data, claim, now| data.claim(claim, lease_ms, now))
    }

    async fn renew(&self, claims: &[Claim], lease_ms: u64) -> Result<Vec<Held>, PortError> {
        self.each(claims, |data, claim, now| data.renew(claim, lease_ms, now))
    }

    async fn complete(&self, claims: &[Claim], retention_ms: u64) -> Result<Vec<Held>, PortError> {
        self.each(claims, |data, claim, now| data.complete(claim, retention_ms, now))
    }

    async fn release(&self, claims: &[Claim]) -> Result<Vec<Held>, PortError> {
        self.each(claims, Data::release)
    }
}
