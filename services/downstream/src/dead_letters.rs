//! What lies in the dead-letter queues, as an operator sees it, and what an operator does about it: send it again, or discard it.
//!
//! A queue cannot be read without taking from it. A look ([`scan`]) takes and acknowledges nothing, so that everything goes back; an act
//! ([`act`]) acknowledges what it has dealt with. Two looks at once harm nobody: each sees what the other does not hold, and says that it has
//! not seen everything. Within one process the second is refused.
//!
//! **Invariant:** a dead letter comes to be handled again only through the work queue, and so through the guard.

pub mod act;
pub mod filter;
pub mod scan;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use countersign_boot::{Stop, Tasks};
use countersign_delivery::ports::broker::{Consumers, Publisher};
use countersign_delivery::ports::{Clock, PortError};
use countersign_delivery::topology::Topology;
use countersign_wire::dead_letter::DeadLetter;

use filter::Filter;
use scan::{Keep, Sight};

/// Why a look, or an act, did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// There is no such subscription.
    #[error("subscription {wanted:?} is not in the topology, which has {}", .known.join(", "))]
    Unknown {
        /// What was asked for.
        wanted: String,
        /// What could have been.
        known: Vec<String>,
    },
    /// Another call looks at it.
    #[error("another one is looking at {0} through this downstream: try again in a moment")]
    Busy(String),
    /// The broker does not answer, or has no such queue.
    #[error("the queue cannot be read")]
    Away(#[source] PortError),
    /// The connection broke in the middle.
    #[error("the connection to the broker was lost meanwhile: nothing has changed, try again")]
    Lost,
}

impl Problem {
    /// Whether trying again later may help.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Unknown { .. } => false,
            Self::Busy(_) | Self::Lost => true,
            Self::Away(error) => error.is_transient(),
        }
    }
}

/// A queue of dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// The work queue whose letters these are; none for quarantine.
    pub work: Option<String>,
}

/// What operators are served with.
pub struct DeadLetters {
    /// Where queues are read.
    pub consumers: Arc<dyn Consumers>,
    /// Where copies are published.
    pub publisher: Arc<dyn Publisher>,
    /// Which queues there are.
    pub topology: Topology,
    /// How long the guard of each subscription remembers, milliseconds: what is older is not sent again. 0, or absent: for ever.
    pub memories_ms: BTreeMap<String, u64>,
    /// For ages and histories.
    pub clock: Arc<dyn Clock>,
    /// Where acts run, so that no caller can leave one half done.
    pub tasks: Tasks,
    /// When acts end early.
    pub stop: Stop,
    /// Which queues are being looked at.
    pub busy: Busy,
}

/// The queues that somebody looks at through this process.
#[derive(Clone, Debug, Default)]
pub struct Busy(Arc<Mutex<BTreeSet<String>>>);

/// One of them; given up when dropped.
#[derive(Debug)]
pub struct Turn {
    busy: Busy,
    queue: String,
}

impl Busy {
    fn take(&self, queue: &str) -> Result<Turn, Problem> {
        let fresh = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(queue.to_owned());
        let turn = || Turn { busy: self.clone(), queue: queue.to_owned() };
        fresh.then(turn).ok_or_else(|| Problem::Busy(queue.to_owned()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.busy.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.queue);
    }
}

impl DeadLetters {
    /// The dead-letter queue of a subscription of the topology.
    ///
    /// # Errors
    /// [`Problem::Unknown`].
    pub fn queue_of(&self, subscription: &str) -> Result<Queue, Problem> {
        let all = &self.topology.subscriptions;
        let Some(found) = all.iter().find(|known| known.name.as_str() == subscription) else {
            let known = all.iter().map(|known| known.name.to_string()).collect();
            return Err(Problem::Unknown { wanted: subscription.to_owned(), known });
        };
        Ok(Queue { name: found.dead_queue(), work: Some(found.name.to_string()) })
    }

    /// The queue of what nobody could be told of.
    #[must_use]
    pub fn quarantine(&self) -> Queue {
        Queue { name: self.topology.quarantine_queue(), work: None }
    }

    fn memory_ms(&self, subscription: &str) -> u64 {
        self.memories_ms.get(subscription).copied().unwrap_or(0)
    }

    /// Looks, with everything back in the queue when this returns.
    ///
    /// # Errors
    /// [`Problem`].
    pub async fn list(&self, queue: &Queue, filter: &Filter, keep: Keep) -> Result<Listed, Problem> {
        let _turn = self.busy.take(&queue.name)?;
        let mut sight = scan::look(&*self.consumers, queue, filter, keep).await?;
        let found = std::mem::take(&mut sight.found);
        let listed = Listed {
            ready: sight.ready,
            seen: sight.seen,
            matched: sight.matched,
            partial: sight.partial.take(),
            letters: found.into_iter().map(|found| (found.letter, found.delivered.body)).collect(),
        };
        sight.end(&*self.consumers, queue, 0).await;
        Ok(listed)
    }

    /// Looks, and holds on to what it found for an act.
    ///
    /// # Errors
    /// [`Problem`].
    async fn hold(&self, queue: &Queue, filter: &Filter, keep: Keep) -> Result<(Turn, Sight), Problem> {
        let turn = self.busy.take(&queue.name)?;
        Ok((turn, scan::look(&*self.consumers, queue, filter, keep).await?))
    }
}

/// What a look has seen, after it.
#[derive(Debug)]
pub struct Listed {
    /// As [`Sight::ready`].
    pub ready: u32,
    /// As [`Sight::seen`].
    pub seen: u32,
    /// As [`Sight::matched`].
    pub matched: u32,
    /// As [`Sight::partial`].
    pub partial: Option<String>,
    /// Letters with their bodies, which are empty if none were kept.
    pub letters: Vec<(DeadLetter, Bytes)>,
}
