//! [`Publisher`] and [`Consumers`] in memory: routes by a [`Topology`], expires tiers and dead-letters by the manual clock.
//!
//! What it leaves out of the real one: priorities, flow control, and the `x-death` headers of dead-lettered messages.

mod consumer;
mod queues;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use countersign_delivery::Topology;
use countersign_delivery::ports::broker::{Consumer, Consumers, Publication, Published, Publisher};
use countersign_delivery::ports::{Clock, PortError};
use tokio::sync::watch;

use self::consumer::MemoryConsumer;
use self::queues::Queues;
use crate::clock::ManualClock;
use crate::switch;

/// A broker in memory; clones share it.
#[derive(Clone, Debug)]
pub struct MemoryBroker {
    clock: ManualClock,
    state: Arc<Mutex<State>>,
    /// Counts changes, so that whoever waits looks again.
    changed: Arc<watch::Sender<u64>>,
}

#[derive(Debug)]
struct State {
    topology: Topology,
    queues: Queues,
    up: bool,
    generation: u64,
    published: Vec<Publication>,
    mishaps: Vec<Mishap>,
}

#[derive(Clone, Copy, Debug)]
enum Mishap {
    Nack,
    Return,
    Unknown { arrives: bool },
}

impl MemoryBroker {
    /// Up, with every queue of the topology, empty.
    #[must_use]
    pub fn new(topology: &Topology, clock: &ManualClock) -> Self {
        let state = State {
            topology: topology.clone(),
            queues: Queues::of(topology),
            up: true,
            generation: 1,
            published: Vec::new(),
            mishaps: Vec::new(),
        };
        Self { clock: clock.clone(), state: Arc::new(Mutex::new(state)), changed: Arc::default() }
    }

    /// The next `publications` are refused. Mishaps queue up and are used one a publication, in order.
    pub fn nack_next(&self, publications: usize) {
        self.add_mishaps(publications, Mishap::Nack);
    }

    /// The next `publications` are returned as unroutable.
    pub fn return_next(&self, publications: usize) {
        self.add_mishaps(publications, Mishap::Return);
    }

    /// The confirms of the next `publications` are lost; whether they reached their queues is up to `arrives`.
    pub fn unknown_next(&self, publications: usize, arrives: bool) {
        self.add_mishaps(publications, Mishap::Unknown { arrives });
    }

    /// Every connection is lost: what was not settled goes back to its queue, publications are unknown, consumers wait.
    pub fn go_down(&self) {
        self.change(|state| {
            state.up = false;
            state.generation += 1;
            state.queues.take_everything_back();
        });
    }

    /// Ends [`Self::go_down`]: consumers go on, under a new generation.
    pub fn come_up(&self) {
        self.change(|state| state.up = true);
    }

    /// What waits in a queue, head first; not what consumers hold.
    #[must_use]
    pub fn ready(&self, queue: &str) -> Vec<Publication> {
        self.look(|state| state.queues.ready(queue))
    }

    /// How many messages wait in a queue.
    #[must_use]
    pub fn depth(&self, queue: &str) -> usize {
        self.ready(queue).len()
    }

    /// How many messages of a queue consumers hold.
    #[must_use]
    pub fn unsettled(&self, queue: &str) -> usize {
        self.look(|state| state.queues.unsettled(queue))
    }

    /// Loses what waits in a queue; what consumers hold stays theirs.
    pub fn purge(&self, queue: &str) {
        self.change(|state| state.queues.purge(queue));
    }

    /// Removes a queue with everything in it: publications to it are returned from now on.
    pub fn delete_queue(&self, queue: &str) {
        self.change(|state| state.queues.delete(queue));
    }

    /// Everything that was given to [`Publisher::publish`] while up, in order, whatever became of it.
    #[must_use]
    pub fn published(&self) -> Vec<Publication> {
        self.look(|state| state.published.clone())
    }

    fn add_mishaps(&self, publications: usize, mishap: Mishap) {
        self.change(|state| state.mishaps.extend(std::iter::repeat_n(mishap, publications)));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads, with everything moved on that has expired by now.
    fn look<T>(&self, read: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        state.queues.expire(self.clock.now());
        read(&mut state)
    }

    fn change<T>(&self, write: impl FnOnce(&mut State) -> T) -> T {
        let answer = self.look(write);
        self.changed.send_modify(|count| *count += 1);
        answer
    }
}

impl State {
    fn publish(&mut self, publication: &Publication, clock: &ManualClock) -> Published {
        self.published.push(publication.clone());
        let mishap = if self.mishaps.is_empty() { None } else { Some(self.mishaps.remove(0)) };
        match mishap {
            Some(Mishap::Nack) => return Published::Nacked,
            Some(Mishap::Return) => return Published::Returned { reason: "NO_ROUTE".into() },
            Some(Mishap::Unknown { arrives: false }) => return Published::Unknown,
            Some(Mishap::Unknown { arrives: true }) | None => {}
        }
        let Some(targets) = self.queues.route(&self.topology, publication) else { return Published::Unknown };
        if targets.is_empty() && mishap.is_none() {
            return Published::Returned { reason: "NO_ROUTE".into() };
        }
        for queue in targets {
            self.queues.push(&queue, publication.clone(), clock.now());
        }
        if mishap.is_some() { Published::Unknown } else { Published::Confirmed }
    }
}

#[async_trait]
impl Publisher for MemoryBroker {
    async fn publish(&self, batch: Vec<Publication>) -> Vec<Published> {
        self.change(|state| {
            if !state.up {
                return vec![Published::Unknown; batch.len()];
            }
            batch.iter().map(|publication| state.publish(publication, &self.clock)).collect()
        })
    }

    fn is_up(&self) -> bool {
        self.lock().up
    }

    async fn up(&self) {
        let mut changes = self.changed.subscribe();
        while !self.is_up() {
            // Never closed: `self` holds the sender.
            let _ = changes.changed().await;
        }
    }
}

#[async_trait]
impl Consumers for MemoryBroker {
    async fn consume(&self, queue: &str, prefetch: u16) -> Result<Box<dyn Consumer>, PortError> {
        if queue.is_empty() || prefetch == 0 {
            let why = format!("a consumer needs a queue and a prefetch of at least 1, got {queue:?} and {prefetch}");
            return Err(switch::refused("memory broker", why));
        }
        Ok(Box::new(MemoryConsumer::new(self.clone(), queue, prefetch)))
    }

    async fn ready(&self, queue: &str) -> Result<u32, PortError> {
        if !self.is_up() {
            return Err(switch::unavailable("memory broker"));
        }
        let there = self.look(|state| state.queues.is_there(queue));
        let depth = u32::try_from(self.depth(queue)).unwrap_or(u32::MAX);
        if there { Ok(depth) } else { Err(switch::refused("memory broker", format!("no queue {queue}"))) }
    }
}
