//! The incarnations of this process: the one that accepts, older ones that drain, and those inherited from the dead.
//!
//! **Invariant:** an incarnation is closed only with nothing unsettled, and takes nothing on after it stopped accepting.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use countersign_boot::{Failpoint, failpoint};
use countersign_delivery::ports::messages::Messages;
use countersign_delivery::ports::{Clock, Ids, PortError};
use countersign_delivery::{IncarnationId, UpstreamName, settled};
use futures::future::join_all;
use tokio::sync::Notify;

use crate::clocks;
use crate::ledger::Ledger;
use countersign_telemetry::with_sources;

/// When a further incarnation is opened, and how many there may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// The lag of the watermark above which new messages go into a further incarnation.
    pub max_outstanding: u64,
    /// How many incarnations of this process may be alive at a time.
    pub max_incarnations: usize,
    /// Bytes of bodies that are published again at a time.
    pub page_bytes: usize,
}

/// All incarnations that this process answers for.
pub(crate) struct Incarnations {
    upstream: UpstreamName,
    messages: Arc<dyn Messages>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    bounds: Bounds,
    /// Ours, oldest first.
    own: Mutex<Vec<Arc<Ledger>>>,
    /// What we adopt, until it is closed.
    inherited: Mutex<Vec<Arc<Ledger>>>,
    /// Held while one is being opened, so that only one is.
    opening: tokio::sync::Mutex<()>,
    /// It was told that there is no room for a further one.
    told_full: AtomicBool,
    /// Wakes the catching-up task.
    pub(crate) wake: Arc<Notify>,
}

impl Incarnations {
    pub(crate) fn new(
        upstream: UpstreamName,
        messages: Arc<dyn Messages>,
        (clock, ids): (Arc<dyn Clock>, Arc<dyn Ids>),
        bounds: Bounds,
    ) -> Self {
        Self {
            upstream,
            messages,
            clock,
            ids,
            bounds,
            own: Mutex::default(),
            inherited: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            told_full: AtomicBool::new(false),
            wake: Arc::default(),
        }
    }

    /// The incarnation that accepts messages, if there is one.
    pub(crate) fn current(&self) -> Option<Arc<Ledger>> {
        lock(&self.own).iter().rev().find(|ledger| ledger.is_accepting()).cloned()
    }

    /// The incarnation that accepts messages; a new one when there is none.
    pub(crate) async fn accepting(&self) -> Result<Arc<Ledger>, PortError> {
        if let Some(current) = self.current() {
            return Ok(current);
        }
        let _opening = self.opening.lock().await;
        match self.current() {
            Some(opened_meanwhile) => Ok(opened_meanwhile),
            None => self.open().await,
        }
    }

    async fn open(&self) -> Result<Arc<Ledger>, PortError> {
        let (id, before) = (IncarnationId(self.ids.uuid()), self.clock.now());
        let opened = self.messages.open(&self.upstream, id, id.minted_at()).await?;
        clocks::tell(before, self.clock.now(), opened);
        let floor = settled::floor(id.minted_at(), opened);
        tracing::info!(incarnation = %id, "opened an incarnation");
        let ledger = Ledger::own(id, floor, self.clock.clone(), self.wake.clone(), self.bounds.page_bytes);
        lock(&self.own).push(ledger.clone());
        Ok(ledger)
    }

    /// Opens a further incarnation when the accepting one lags too far behind: its successor would have too much to look through.
    ///
    /// With `max_incarnations` alive there is none: messages go on into the newest, whose lag then grows without a bound, which costs
    /// a successor time and loses nothing. It is told once, and again after there was room.
    pub(crate) async fn limit_lag(&self) -> Result<(), PortError> {
        let Some(current) = self.current() else { return Ok(()) };
        let (alive, lag) = (lock(&self.own).len(), current.lag());
        let lags = lag > self.bounds.max_outstanding;
        let full = lags && alive >= self.bounds.max_incarnations;
        if full && !self.told_full.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                alive,
                lag,
                "max_incarnations are alive and the newest lags too: it takes messages on all the same. What keeps the oldest unsettled?"
            );
        }
        if full || !lags {
            self.told_full.store(full, Ordering::Relaxed);
            return Ok(());
        }
        let _opening = self.opening.lock().await;
        self.open().await?;
        current.stop_accepting();
        tracing::warn!(incarnation = %current.incarnation(), "its watermark lags: new messages go into a further incarnation");
        Ok(())
    }

    /// Somebody else has adopted or fenced this incarnation: stop accepting under it at once.
    pub(crate) fn lost(&self, ledger: &Arc<Ledger>) {
        ledger.give_up();
        lock(&self.own).retain(|own| !Arc::ptr_eq(own, ledger));
        tracing::warn!(incarnation = %ledger.incarnation(), "adopted by another process, which took this one for dead");
    }

    /// One heartbeat of every incarnation of ours; those that are drained are closed. All at once, so that one that cannot be written
    /// (somebody holds its row) keeps none of the others from living. Returns the first error.
    pub(crate) async fn beat(&self) -> Result<(), PortError> {
        let own = self.all_own();
        let beats = join_all(own.iter().map(|ledger| self.beat_one(ledger))).await;
        beats.into_iter().collect()
    }

    async fn beat_one(&self, ledger: &Arc<Ledger>) -> Result<(), PortError> {
        if ledger.is_drained() && ledger.adoptions.load(Ordering::Relaxed) == 0 {
            return self.close(ledger).await;
        }
        let (watermark, settled_until) = ledger.settled();
        failpoint(Failpoint::UpstreamBeforeWatermark);
        if !self.messages.beat(ledger.incarnation(), ledger.next_beat(), watermark, settled_until).await? {
            self.lost(ledger);
        }
        Ok(())
    }

    async fn close(&self, ledger: &Arc<Ledger>) -> Result<(), PortError> {
        self.messages.close(ledger.incarnation()).await?;
        lock(&self.own).retain(|own| !Arc::ptr_eq(own, ledger));
        tracing::info!(incarnation = %ledger.incarnation(), "closed: everything it stored is settled");
        Ok(())
    }

    /// At stop: nothing more is accepted, so what is drained closes with the next heartbeat.
    pub(crate) fn stop_accepting(&self) {
        for ledger in lock(&self.own).iter() {
            ledger.stop_accepting();
        }
    }

    /// Ours, oldest first.
    pub(crate) fn all_own(&self) -> Vec<Arc<Ledger>> {
        lock(&self.own).clone()
    }

    /// The names of ours.
    pub(crate) fn own_ids(&self) -> HashSet<IncarnationId> {
        lock(&self.own).iter().map(|ledger| ledger.incarnation()).collect()
    }

    /// Ours and the inherited ones.
    pub(crate) fn all(&self) -> Vec<Arc<Ledger>> {
        let mut all = self.all_own();
        all.extend(self.inherited());
        all
    }

    /// What we adopt.
    pub(crate) fn inherited(&self) -> Vec<Arc<Ledger>> {
        lock(&self.inherited).clone()
    }

    /// One of ours by name.
    pub(crate) fn own(&self, incarnation: IncarnationId) -> Option<Arc<Ledger>> {
        lock(&self.own).iter().find(|ledger| ledger.incarnation() == incarnation).cloned()
    }

    /// The ledger of what we adopt; the same one again when an adoption is taken up once more.
    pub(crate) fn inherit(&self, incarnation: IncarnationId) -> Arc<Ledger> {
        let mut inherited = lock(&self.inherited);
        if let Some(known) = inherited.iter().find(|ledger| ledger.incarnation() == incarnation) {
            return known.clone();
        }
        let ledger = Ledger::inherited(incarnation, self.wake.clone(), self.bounds.page_bytes);
        inherited.push(ledger.clone());
        ledger
    }

    /// An inheritance is closed, or somebody else's.
    pub(crate) fn disinherit(&self, ledger: &Arc<Ledger>) {
        ledger.give_up();
        lock(&self.inherited).retain(|known| !Arc::ptr_eq(known, ledger));
    }
}

/// Notes in one line that a port did not do what it was asked.
pub(crate) fn note(what: &str, error: &PortError) {
    tracing::warn!(error = %with_sources(error), "{what}");
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
