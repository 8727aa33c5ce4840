//! Stops calling who does not answer, and finds out with one call when it does again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// When it opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerFigures {
    /// Failed calls in a row that open it; at least 1.
    pub failures: u32,
    /// How long it stays open before one call may try.
    pub open: Duration,
}

/// Counts failures in a row. Closed: calls pass. Open: none does. When its time is over one call passes; its success closes, its failure opens again.
#[derive(Debug)]
pub struct Breaker {
    figures: BreakerFigures,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    open_until: Option<Instant>,
    trying: bool,
}

/// Leave for one call. Dropped without a report it counts as not made.
#[derive(Debug)]
#[must_use = "report how the call went"]
pub struct Permit {
    breaker: Arc<Breaker>,
    trial: bool,
    reported: bool,
}

impl Breaker {
    /// Closed.
    #[must_use]
    pub fn new(figures: BreakerFigures) -> Self {
        Self { figures, state: Mutex::default() }
    }

    /// Leave for one call; none while open, or while the one trial is under way.
    #[must_use]
    pub fn admit(self: &Arc<Self>) -> Option<Permit> {
        let mut state = self.lock();
        let trial = match state.open_until {
            None => false,
            Some(until) if until <= Instant::now() && !state.trying => {
                state.trying = true;
                true
            }
            Some(_) => return None,
        };
        Some(Permit { breaker: self.clone(), trial, reported: false })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// The call was answered, whatever the answer.
    pub fn answered(mut self) {
        self.reported = true;
        *self.breaker.lock() = State::default();
    }

    /// The call failed. Returns whether the breaker opened by it.
    #[allow(clippy::must_use_candidate, reason = "only logs want to know")]
    pub fn failed(mut self) -> bool {
        self.reported = true;
        let mut state = self.breaker.lock();
        state.failures = state.failures.saturating_add(1);
        let opens = self.trial || (state.open_until.is_none() && state.failures >= self.breaker.figures.failures);
        if opens {
            state.open_until = Some(Instant::now() + self.breaker.figures.open);
        }
        if self.trial {
            state.trying = false;
        }
        opens
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.trial && !self.reported {
            self.breaker.lock().trying = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIGURES: BreakerFigures = BreakerFigures { failures: 2, open: Duration::from_secs(10) };

    fn breaker() -> Arc<Breaker> {
        Arc::new(Breaker::new(FIGURES))
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_in_a_row_and_lets_one_trial_through_later() {
        let breaker = breaker();
        assert!(!breaker.admit().unwrap().failed());
        assert!(breaker.admit().unwrap().failed());
        assert!(breaker.admit().is_none());
        tokio::time::advance(FIGURES.open).await;
        let trial = breaker.admit().unwrap();
        assert!(breaker.admit().is_none(), "one trial at a time");
        assert!(trial.failed());
        assert!(breaker.admit().is_none());
        tokio::time::advance(FIGURES.open).await;
        breaker.admit().unwrap().answered();
        assert!(!breaker.admit().unwrap().failed(), "closed, counting from none");
        assert!(breaker.admit().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_between_failures_starts_the_count_over() {
        let breaker = breaker();
        for _ in 0..5 {
            assert!(!breaker.admit().unwrap().failed());
            breaker.admit().unwrap().answered();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_that_is_given_up_frees_the_place() {
        let breaker = breaker();
        let _ = breaker.admit().unwrap().failed();
        let _ = breaker.admit().unwrap().failed();
        tokio::time::advance(FIGURES.open).await;
        drop(breaker.admit().unwrap());
        assert!(breaker.admit().is_some());
    }
}
