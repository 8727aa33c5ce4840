//! Whether the records that a guard needs can be used now. While they cannot, nothing is consumed.
//!
//! There is one gate per record (Redis, the database); a subscription stands behind all those that its guard needs.

use std::sync::Arc;

use countersign_boot::Dependency;
use tokio::sync::watch;

/// Closed as soon as a record cannot be used; opened by whoever sees it accept writes again. One made of several is open while all of them are.
/// All clones are one.
#[derive(Clone, Debug)]
pub struct Gate {
    leaves: Vec<Arc<Leaf>>,
}

/// The gate of one record.
#[derive(Debug)]
struct Leaf {
    record: &'static str,
    state: watch::Sender<State>,
    shown: Dependency,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    open: bool,
    /// How often it was closed. A closing must not be missed, however soon it opens again: what was left then has to go back.
    closings: u64,
}

/// One opening of the gate: how often it, or all that it is made of, had been closed by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening(u64);

impl Gate {
    /// A closed gate; `shown` is what readiness says about the record, named in logs.
    #[must_use]
    pub fn new(record: &'static str, shown: Dependency) -> Self {
        Self { leaves: vec![Arc::new(Leaf { record, state: watch::Sender::default(), shown })] }
    }

    /// Open while all of these are.
    #[must_use]
    pub fn all(gates: impl IntoIterator<Item = Self>) -> Self {
        Self { leaves: gates.into_iter().flat_map(|gate| gate.leaves).collect() }
    }

    /// The record accepts writes.
    pub fn open(&self) {
        for leaf in &self.leaves {
            leaf.open();
        }
    }

    /// The record cannot be used.
    pub fn close(&self, reason: &str) {
        for leaf in &self.leaves {
            leaf.close(reason);
        }
    }

    /// Waits until it is open.
    pub async fn opened(&self) -> Opening {
        loop {
            for leaf in &self.leaves {
                // The sender lives as long as this gate, so the wait cannot fail.
                let _ = leaf.state.subscribe().wait_for(|state| state.open).await;
            }
            let states = || self.leaves.iter().map(|leaf| *leaf.state.borrow());
            let opening = Opening(states().map(|state| state.closings).sum());
            // One that has closed since is missed by neither look.
            if states().all(|state| state.open) {
                return opening;
            }
        }
    }

    /// Waits until it has been closed since that opening, if only for a moment.
    pub async fn closed(&self, since: Opening) {
        let mut states: Vec<_> = self.leaves.iter().map(|leaf| leaf.state.subscribe()).collect();
        loop {
            let closings = states.iter_mut().map(|state| state.borrow_and_update().closings).sum();
            if Opening(closings) != since {
                return;
            }
            let changes = states.iter_mut().map(|state| Box::pin(state.changed()));
            let _ = futures::future::select_all(changes).await;
        }
    }
}

impl Leaf {
    fn open(&self) {
        let changed = self.state.send_if_modified(|state| !std::mem::replace(&mut state.open, true));
        self.shown.ready();
        if changed {
            tracing::info!(record = self.record, "a record of what is done can be used");
        }
    }

    fn close(&self, reason: &str) {
        let mut changed = false;
        self.state.send_modify(|state| {
            state.closings += 1;
            changed = std::mem::replace(&mut state.open, false);
        });
        self.shown.unready(reason);
        if changed {
            tracing::warn!(record = self.record, %reason, "a record of what is done cannot be used: nothing that needs it is consumed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_boot::Health;
    use futures::FutureExt as _;

    #[tokio::test]
    async fn a_closing_is_not_missed_even_if_it_opens_again_at_once() {
        let gate = Gate::new("redis", Health::default().dependency("redis"));
        assert!(gate.opened().now_or_never().is_none());
        gate.open();
        let opening = gate.opened().now_or_never().expect("it is open");
        assert!(gate.closed(opening).now_or_never().is_none());
        gate.close("gone");
        gate.open();
        assert!(gate.closed(opening).now_or_never().is_some());
        assert!(gate.closed(gate.opened().await).now_or_never().is_none());
    }

    #[tokio::test]
    async fn one_of_several_is_open_while_all_are() {
        let health = Health::default();
        let [redis, database] = ["redis", "database"].map(|record| Gate::new(record, health.dependency(record)));
        let both = Gate::all([redis.clone(), database.clone()]);
        redis.open();
        assert!(both.opened().now_or_never().is_none());
        database.open();
        let opening = both.opened().now_or_never().expect("both are open");
        assert!(both.closed(opening).now_or_never().is_none());
        database.close("gone");
        assert!(both.closed(opening).now_or_never().is_some());
        assert!(health.readiness().dependencies["redis"].ready && !health.readiness().dependencies["database"].ready);
        database.open();
        let again = both.opened().now_or_never().expect("both are open again");
        assert_ne!(opening, again);
    }
}
