//! One line to each upstream: how fast it may be told to resend, and whether it answers at all.

mod breaker;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use countersign_delivery::UpstreamName;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
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
    /// How long one step waits for the rate at most.
    pub patience: Duration,
    /// When a line counts as dead.
    pub breaker: BreakerFigures,
}

/// Why nothing may be ordered now. No attempt is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// It failed too often; somebody will try it later.
    Breaker,
    /// Enough has been ordered for now.
    Rate,
}

impl Closed {
    /// The word used in metrics and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Breaker => "breaker_open",
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

    /// Until when a step that begins now may wait for the rate.
    #[must_use]
    pub fn patience(&self) -> Instant {
        Instant::now() + self.figures.patience
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
        Self { bucket: RateLimiter::direct(quota), breaker: Arc::new(Breaker::new(figures.breaker)) }
    }

    /// Leave to order `orders` resends in one call, at the latest at `until`.
    ///
    /// # Errors
    /// [`Closed`]: not now. Nothing is spent.
    pub async fn admit(&self, orders: usize, until: Instant) -> Result<Permit, Closed> {
        let permit = self.breaker.admit().ok_or(Closed::Breaker)?;
        let Some(orders) = u32::try_from(orders).ok().and_then(NonZeroU32::new) else { return Ok(permit) };
        match tokio::time::timeout_at(until, self.bucket.until_n_ready(orders)).await {
            Ok(Ok(())) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(Closed::Rate),
        }
    }
}
