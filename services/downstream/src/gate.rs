//! Whether the claim record can be used now. While it cannot, nothing is consumed.

use std::sync::Arc;

use countersign_boot::Dependency;
use tokio::sync::watch;

/// Closed as soon as a claim cannot be made; opened by whoever sees Redis accept writes again. All clones are one.
#[derive(Clone, Debug)]
pub struct Gate {
    state: Arc<watch::Sender<State>>,
    shown: Dependency,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    open: bool,
    /// How often it was closed. A closing must not be missed, however soon it opens again: what was left then has to go back.
    closings: u64,
}

/// One opening of the gate.
#[derive(Clone, Copy, Debug)]
pub struct Opening(u64);

impl Gate {
    /// A closed gate; `shown` is what readiness says about it.
    #[must_use]
    pub fn new(shown: Dependency) -> Self {
        Self { state: Arc::default(), shown }
    }

    /// The record accepts writes.
    pub fn open(&self) {
        let changed = self.state.send_if_modified(|state| !std::mem::replace(&mut state.open, true));
        self.shown.ready();
        if changed {
            tracing::info!("the claim record can be used: consuming");
        }
    }

    /// The record cannot be used.
    pub fn close(&self, reason: &str) {
        let mut changed = false;
        self.state.send_modify(|state| {
            state.closings += 1;
            changed = std::mem::replace(&mut state.open, false);
        });
        self.shown.unready(reason);
        if changed {
            tracing::warn!(%reason, "the claim record cannot be used: consuming stops, nothing is processed without it");
        }
    }

    /// Waits until it is open.
    pub async fn opened(&self) -> Opening {
        // The sender lives as long as this gate, so neither wait can fail.
        let state = self.state.subscribe().wait_for(|state| state.open).await.map_or_else(|_| State::default(), |state| *state);
        Opening(state.closings)
    }

    /// Waits until it has been closed since that opening, if only for a moment.
    pub async fn closed(&self, since: Opening) {
        let _ = self.state.subscribe().wait_for(|state| state.closings != since.0).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_boot::Health;
    use futures::FutureExt as _;

    #[tokio::test]
    async fn a_closing_is_not_missed_even_if_it_opens_again_at_once() {
        let gate = Gate::new(Health::default().dependency("redis"));
        assert!(gate.opened().now_or_never().is_none());
        gate.open();
        let opening = gate.opened().now_or_never().expect("it is open");
        assert!(gate.closed(opening).now_or_never().is_none());
        gate.close("gone");
        gate.open();
        assert!(gate.closed(opening).now_or_never().is_some());
        assert!(gate.closed(gate.opened().await).now_or_never().is_none());
    }
}
