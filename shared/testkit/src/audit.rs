//! [`Audit`] in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use countersign_delivery::ports::audit::{ActResult, Audit, AuditEntry, AuditFilter, CALLBACK, NewAct, ToldAct};
use countersign_delivery::ports::{Clock, PortError};

use uuid::Uuid;

use crate::clock::ManualClock;
use crate::switch::Switch;

const WHAT: &str = "memory audit";

/// An audit in memory, whose own clock is the manual one; clones share it.
#[derive(Clone, Debug)]
pub struct MemoryAudit {
    clock: ManualClock,
    switch: Switch,
    entries: Arc<Mutex<Vec<AuditEntry>>>,
    /// Which row each act that was told is.
    told: Arc<Mutex<BTreeMap<Uuid, usize>>>,
}

impl MemoryAudit {
    /// Nobody has done anything yet.
    #[must_use]
    pub fn new(clock: &ManualClock) -> Self {
        Self { clock: clock.clone(), switch: Switch::default(), entries: Arc::default(), told: Arc::default() }
    }

    /// From now on every call fails as unavailable.
    pub fn go_down(&self) {
        self.switch.set_down(true);
    }

    /// Ends [`Self::go_down`].
    pub fn come_up(&self) {
        self.switch.set_down(false);
    }

    /// All rows, oldest first, without the detour over the port.
    #[must_use]
    pub fn all(&self) -> Vec<AuditEntry> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<AuditEntry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reach(&self) -> Result<MutexGuard<'_, Vec<AuditEntry>>, PortError> {
        self.switch.check(WHAT)?;
        Ok(self.lock())
    }
}

#[async_trait]
impl Audit for MemoryAudit {
    async fn begin(&self, act: &NewAct) -> Result<u64, PortError> {
        let mut entries = self.reach()?;
        let number = entries.len() as u64 + 1;
        let NewAct { by, act, target, subscription, reason } = act.clone();
        entries.push(AuditEntry {
            number,
            at: self.clock.now(),
            ended_at: None,
            by,
            act: act.as_str().into(),
            target,
            subscription,
            reason,
            result: ActResult::Begun,
            detail: String::new(),
            service: CALLBACK.into(),
            service_name: String::new(),
        });
        Ok(number)
    }

    async fn end(&self, number: u64, result: ActResult, detail: &str) -> Result<bool, PortError> {
        let mut entries = self.reach()?;
        let open = |entry: &&mut AuditEntry| entry.number == number && entry.result == ActResult::Begun;
        let Some(entry) = entries.iter_mut().find(open) else { return Ok(false) };
        entry.result = result;
        detail.clone_into(&mut entry.detail);
        entry.ended_at = Some(self.clock.now());
        Ok(true)
    }

    async fn write_told(&self, acts: &[ToldAct]) -> Result<(), PortError> {
        let mut entries = self.reach()?;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for act in acts {
            let next = entries.len();
            let place = *told.entry(act.id).or_insert(next);
            match entries.get_mut(place) {
                None => entries.push(entry_of(act, next as u64 + 1)),
                Some(entry) if entry.result == ActResult::Begun && act.result != ActResult::Begun => {
                    let AuditEntry { ended_at, target, result, detail, .. } = entry_of(act, 0);
                    *entry = AuditEntry { ended_at, target, result, detail, ..entry.clone() };
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    async fn entries(&self, filter: &AuditFilter, limit: u32) -> Result<Vec<AuditEntry>, PortError> {
        let is = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
        let entries = self.reach()?;
        let wanted = entries.iter().rev().filter(|entry| {
            is(&filter.act, &entry.act)
                && is(&filter.by, &entry.by)
                && is(&filter.target, &entry.target)
                && is(&filter.service, &entry.service)
                && filter.before.is_none_or(|before| entry.number < before)
        });
        Ok(wanted.take(usize::try_from(limit).unwrap_or(usize::MAX)).cloned().collect())
    }
}

fn entry_of(act: &ToldAct, number: u64) -> AuditEntry {
    let ToldAct { id: _, service, service_name, by, act, target, subscription, reason, at, ended_at, result, detail } =
        act.clone();
    AuditEntry { number, at, ended_at, by, act, target, subscription, reason, result, detail, service, service_name }
}
