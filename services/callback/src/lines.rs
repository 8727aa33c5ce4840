//! One line to each upstream: how fast it may be told to resend, by how many calls at a time, and whether it answers at all.
//!
//! **Invariant:** nobody waits for a line that is stuck: who finds all its calls taken while none of them gets on is sent away at once.

mod breaker;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use countersign_delivery::UpstreamName;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

pub use breaker::{Breaker, BreakerFigures, Permit};

/// Lines that are remembered; names beyond that share one, so that made-up names cannot fill the memory.
const LINES_MAX: usize = 1_000;

/// Figures of every line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineFigures {
    /// Orders a second.
    pub rate_per_s: NonZeroU32,
    /// Orders at once after a quiet time.
    pub burst: NonZeroU32,
    /// Calls at a time.
    pub calls: usize,
    /// How long one step waits for leave to call, and then for the answer to a call.
    pub patience: Duration,
    /// When a line counts as dead.
    pub breaker: BreakerFigures,
}

/// Why nothing may be ordered now. No attempt is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// It failed too often; somebody will try it later.
    Breaker,
    /// As many calls as may be are under way.
    Busy,
    /// Enough has been ordered for now.
    Rate,
}

impl Closed {
    /// The word used in metrics and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Breaker => "breaker_open",
            Self::Busy => "busy",
            Self::Rate => "rate_limited",
        }
    }
}

/// The lines to all upstreams.
#[derive(Debug)]
pub struct Lines {
    figures: LineFigures,
    known: Mutex<BTreeMap<UpstreamName, Arc<Line>>>,
    others: Arc<Line>,
}

/// The line to one upstream.
#[derive(Debug)]
pub struct Line {
    bucket: DefaultDirectRateLimiter,
    breaker: Arc<Breaker>,
    slots: Arc<Semaphore>,
    /// Whether what has last been heard of it came soon: then it is worth waiting for a call to end.
    prompt: AtomicBool,
}

/// Leave for one call of a number of orders. Dropped without a report the call counts as not made; its place is free again.
#[derive(Debug)]
#[must_use = "report how the call went"]
pub struct Leave {
    line: Arc<Line>,
    permit: Permit,
    _slot: OwnedSemaphorePermit,
    orders: usize,
}

impl Lines {
    /// No line yet.
    #[must_use]
    pub fn new(figures: LineFigures) -> Self {
        Self { figures, known: Mutex::default(), others: Arc::new(Line::new(figures)) }
    }

    /// The line to this upstream.
    #[must_use]
    pub fn to(&self, upstream: &UpstreamName) -> Arc<Line> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = known.get(upstream) {
            return line.clone();
        }
        if known.len() >= LINES_MAX {
            return self.others.clone();
        }
        known.entry(upstream.clone()).or_insert_with(|| Arc::new(Line::new(self.figures))).clone()
    }

    /// How long one step waits for leave to call, and then for the answer to a call.
    #[must_use]
    pub const fn patience(&self) -> Duration {
        self.figures.patience
    }

    /// The most orders that may ever be asked for at once.
    #[must_use]
    pub fn burst(&self) -> usize {
        usize::try_from(self.figures.burst.get()).unwrap_or(usize::MAX)
    }
}

impl Line {
    fn new(figures: LineFigures) -> Self {
        let quota = Quota::per_second(figures.rate_per_s).allow_burst(figures.burst);
        Self {
            bucket: RateLimiter::direct(quota),
            breaker: Arc::new(Breaker::new(figures.breaker)),
            slots: Arc::new(Semaphore::new(figures.calls)),
            prompt: AtomicBool::new(true),
        }
    }

    /// Leave to order up to `orders` resends in one call, at the latest at `until`: fewer if the rate does not allow more by then.
    ///
    /// # Errors
    /// [`Closed`]: not now. Nothing is spent.
    pub async fn admit(self: &Arc<Self>, orders: usize, until: Instant) -> Result<Leave, Closed> {
        let permit = self.breaker.admit().ok_or(Closed::Breaker)?;
        let slot = self.slot(until).await?;
        let orders = self.tokens(orders, until).await?;
        Ok(Leave { line: self.clone(), permit, _slot: slot, orders })
    }

    /// Notes that the line keeps others waiting: until it is heard of again, whoever finds its calls taken does not wait.
    pub fn note_slow(&self) {
        self.prompt.store(false, Ordering::Relaxed);
    }

    async fn slot(&self, until: Instant) -> Result<OwnedSemaphorePermit, Closed> {
        if let Ok(slot) = self.slots.clone().try_acquire_owned() {
            return Ok(slot);
        }
        if !self.prompt.load(Ordering::Relaxed) {
            return Err(Closed::Busy);
        }
        match tokio::time::timeout_at(until, self.slots.clone().acquire_owned()).await {
            Ok(Ok(slot)) => Ok(slot),
            Ok(Err(_)) | Err(_) => Err(Closed::Busy),
        }
    }

    /// Takes that many orders out of the bucket, or at `until` as many as are in it.
    async fn tokens(&self, orders: usize, until: Instant) -> Result<usize, Closed> {
        let Some(wanted) = u32::try_from(orders).ok().and_then(NonZeroU32::new) else { return Ok(0) };
        if self.has(wanted) {
            return Ok(orders);
        }
        // The rate is used up by those who wait for it already.
        self.note_slow();
        if let Ok(Ok(())) = tokio::time::timeout_at(until, self.bucket.until_n_ready(wanted)).await {
            return Ok(orders);
        }
        let fewer = std::iter::successors(NonZeroU32::new(wanted.get() / 2), |fewer| NonZeroU32::new(fewer.get() / 2));
        let granted = fewer.into_iter().find(|fewer| self.has(*fewer)).ok_or(Closed::Rate)?;
        Ok(usize::try_from(granted.get()).unwrap_or(orders))
    }

    fn has(&self, orders: NonZeroU32) -> bool {
        self.bucket.check_n(orders).is_ok_and(|enough| enough.is_ok())
    }
}

impl Leave {
    /// How many orders the call may carry.
    #[must_use]
    pub const fn orders(&self) -> usize {
        self.orders
    }

    /// The call was answered, whatever the answer.
    pub fn answered(self) {
        self.line.prompt.store(true, Ordering::Relaxed);
        self.permit.answered();
    }

    /// The call failed. Returns whether the breaker opened by it.
    #[allow(clippy::must_use_candidate, reason = "only logs want to know")]
    pub fn failed(self) -> bool {
        self.line.note_slow();
        self.permit.failed()
    }
}

#[cfg(test)]
mod tests;
