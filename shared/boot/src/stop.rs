//! How a process is told to stop: first softly, then hard.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

/// The stop signals of one process. Cheap to clone; all clones are one.
///
/// Three things happen, each once and in this order: somebody **requests** a stop (a signal, a failed task); **soft**
/// stop begins (take no new work, finish what is in flight); **hard** stop begins when the grace is over (drop it).
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<Signals>);

#[derive(Debug, Default)]
struct Signals {
    requested: CancellationToken,
    soft: CancellationToken,
    hard: CancellationToken,
    failure: OnceLock<String>,
}

impl Stop {
    /// Asks the process to stop in its orderly way, as SIGTERM does. Returns at once.
    pub fn request(&self) {
        self.0.requested.cancel();
    }

    /// Asks the process to stop because of `reason`; it will exit with code 1. The first reason is kept.
    pub fn fail(&self, reason: impl Into<String>) {
        let _ = self.0.failure.set(reason.into());
        self.request();
    }

    /// The first reason given to [`fail`](Self::fail).
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.0.failure.get().map(String::as_str)
    }

    /// Waits until somebody requests a stop.
    pub async fn requested(&self) {
        self.0.requested.cancelled().await;
    }

    /// Waits until soft stop begins: take no new work, finish what is in flight.
    pub async fn soft(&self) {
        self.0.soft.cancelled().await;
    }

    /// Waits until hard stop begins: leave everything and return.
    pub async fn hard(&self) {
        self.0.hard.cancelled().await;
    }

    /// Whether soft stop has begun.
    #[must_use]
    pub fn is_soft(&self) -> bool {
        self.0.soft.is_cancelled()
    }

    /// Whether hard stop has begun.
    #[must_use]
    pub fn is_hard(&self) -> bool {
        self.0.hard.is_cancelled()
    }

    /// The token behind [`soft`](Self::soft), for code that takes tokens.
    #[must_use]
    pub fn soft_token(&self) -> CancellationToken {
        self.0.soft.clone()
    }

    /// The token behind [`hard`](Self::hard), for code that takes tokens.
    #[must_use]
    pub fn hard_token(&self) -> CancellationToken {
        self.0.hard.clone()
    }

    /// Begins soft stop at once, without the order of [`shutdown`](crate::shutdown). `launch` calls it; so do tests.
    pub fn begin_soft(&self) {
        self.request();
        self.0.soft.cancel();
    }

    /// Begins hard stop at once. `launch` calls it; so do tests.
    pub fn begin_hard(&self) {
        self.begin_soft();
        self.0.hard.cancel();
    }
}
