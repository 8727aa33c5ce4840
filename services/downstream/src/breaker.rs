//! Holds messages back while their endpoint fails again and again, so that an outage or a bad roll-out does not run them through their
//! retry tiers and bury them. What several subscriptions deliver to one endpoint waits for one breaker.

mod shared;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_telemetry::names;
use tokio::sync::Notify;
use tokio::time::Instant;

pub use shared::Breakers;

/// A pause doubles with each failed trial, up to this many times.
const DOUBLINGS: u32 = 4;

/// Closed: all may pass. After so many failures in a row it opens for a pause; then one message at a time is tried.
pub struct Breaker {
    failures: u32,
    pause: Duration,
    state: Mutex<State>,
    changed: Notify,
}

/// How a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// All may pass.
    Closed,
    /// Nothing passes before the pause is over.
    Open,
    /// The pause is over: one message at a time is tried.
    Trying,
}

#[derive(Debug, Default)]
struct State {
    in_a_row: u32,
    openings: u32,
    open_until: Option<Instant>,
    trial: bool,
    /// Whose messages wait while it is open.
    subscriptions: Vec<String>,
}

impl Breaker {
    /// Opens after `failures` in a row (0: never) for `pause`.
    #[must_use]
    pub fn new(failures: u32, pause: Duration) -> Self {
        Self { failures, pause, state: Mutex::default(), changed: Notify::new() }
    }

    /// Has it hold back this subscription's messages, and say so in its metric.
    pub fn guards(&self, subscription: &str) {
        let mut state = self.state();
        state.subscriptions.push(subscription.to_owned());
        state.show();
    }

    /// How it stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match self.state().open_until {
            None => Standing::Closed,
            Some(until) if until > Instant::now() => Standing::Open,
            Some(_) => Standing::Trying,
        }
    }

    /// Waits until a message may be handled. Hold the pass until it has been.
    pub async fn pass(self: &Arc<Self>) -> Pass {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let until = {
                let mut state = self.state();
                match state.open_until {
                    None => return Pass { breaker: self.clone(), trial: false },
                    Some(until) if until <= Instant::now() && !state.trial => {
                        state.trial = true;
                        return Pass { breaker: self.clone(), trial: true };
                    }
                    Some(until) if until > Instant::now() => Some(until),
                    Some(_) => None,
                }
            };
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
            }
        }
    }

    /// A pass, if nothing has to wait.
    #[must_use]
    pub fn pass_now(self: &Arc<Self>) -> Option<Pass> {
        let closed = self.state().open_until.is_none();
        closed.then(|| Pass { breaker: self.clone(), trial: false })
    }

    /// The handler gave a sound answer.
    pub fn succeeded(&self) {
        let mut state = self.state();
        let was_open = state.open_until.is_some();
        (state.in_a_row, state.openings, state.open_until) = (0, 0, None);
        if !was_open {
            return;
        }
        tracing::info!("the handler works again");
        state.show();
        drop(state);
        self.changed.notify_waiters();
    }

    /// The handler failed in a way that another try may mend.
    pub fn failed(&self) {
        let mut state = self.state();
        state.in_a_row = state.in_a_row.saturating_add(1);
        let now = Instant::now();
        let was_open = state.open_until.is_some_and(|until| until > now);
        if self.failures == 0 || state.in_a_row < self.failures || was_open {
            return;
        }
        let pause = self.pause * 2_u32.pow(state.openings.min(DOUBLINGS));
        state.openings += 1;
        state.open_until = Some(now + pause);
        state.show();
        tracing::warn!(
            failures = state.in_a_row,
            pause_ms = pause.as_millis(),
            subscriptions = ?state.subscriptions,
            "the handler fails again and again: its messages wait"
        );
    }

    /// Whether messages wait, one that is tried apart. A failure meanwhile is the endpoint's rather than the message's, which is to come again with
    /// as many retries before it as it had.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state().open_until.is_some()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn show(&self) {
        let open = if self.open_until.is_some() { 1.0 } else { 0.0 };
        for subscription in &self.subscriptions {
            metrics::gauge!(names::BREAKER_OPEN, "subscription" => subscription.clone()).set(open);
        }
    }
}

/// The right to handle one message.
pub struct Pass {
    breaker: Arc<Breaker>,
    trial: bool,
}

impl Pass {
    /// Whether it still counts: the breaker may have opened since.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.trial || !self.breaker.is_open()
    }
}

/// However the tried message ended, the next one may be tried.
impl Drop for Pass {
    fn drop(&mut self) {
        if self.trial {
            self.breaker.state().trial = false;
            self.breaker.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    fn breaker() -> Arc<Breaker> {
        Arc::new(Breaker::new(2, Duration::from_secs(1)))
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_hold_messages_back_until_one_trial_succeeds() {
        let breaker = breaker();
        breaker.failed();
        assert!(!breaker.is_open());
        drop(breaker.pass().now_or_never().expect("one failure is not enough"));
        breaker.failed();
        assert!(breaker.is_open());
        assert!(breaker.pass().now_or_never().is_none());
        assert_eq!(breaker.standing(), Standing::Open);
        tokio::time::advance(Duration::from_secs(1)).await;
        let trial = breaker.pass().now_or_never().expect("the pause is over");
        assert!(breaker.pass().now_or_never().is_none(), "one trial at a time");
        assert_eq!(breaker.standing(), Standing::Trying);
        breaker.succeeded();
        assert_eq!(breaker.standing(), Standing::Closed);
        drop(trial);
        assert!(breaker.pass().now_or_never().is_some() && breaker.pass().now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_trial_doubles_the_pause() {
        let breaker = breaker();
        breaker.failed();
        breaker.failed();
        tokio::time::advance(Duration::from_secs(1)).await;
        let trial = breaker.pass().now_or_never();
        breaker.failed();
        assert!(breaker.is_open(), "while it is tried, too");
        drop(trial);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(breaker.pass().now_or_never().is_none());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(breaker.pass().now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_in_between_starts_the_count_anew() {
        let breaker = breaker();
        breaker.failed();
        breaker.succeeded();
        breaker.failed();
        assert!(breaker.pass().now_or_never().is_some());
    }
}
