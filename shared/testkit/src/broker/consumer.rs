//! One consumer of one queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use countersign_delivery::ports::broker::{Consumer, Delivered, Handle, Settlement, Settler};

use super::MemoryBroker;
use super::queues::ConsumerId;

/// Consumers are told apart by number.
static NEXT: AtomicU64 = AtomicU64::new(1);

pub(super) struct MemoryConsumer {
    broker: MemoryBroker,
    queue: String,
    prefetch: usize,
    id: ConsumerId,
}

impl MemoryConsumer {
    pub(super) fn new(broker: MemoryBroker, queue: &str, prefetch: u16) -> Self {
        let id = ConsumerId(NEXT.fetch_add(1, Ordering::Relaxed));
        Self { broker, queue: queue.to_owned(), prefetch: prefetch.into(), id }
    }

    fn take(&self, max: usize) -> Vec<Delivered> {
        self.broker.look(|state| {
            if !state.up {
                return Vec::new();
            }
            let free = self.prefetch.saturating_sub(state.queues.held_by(&self.queue, self.id));
            state.queues.take(&self.queue, self.id, state.generation, max.min(free))
        })
    }
}

#[async_trait]
impl Consumer for MemoryConsumer {
    async fn next(&mut self, max: usize) -> Vec<Delivered> {
        let (mut changes, mut ticks) = (self.broker.changed.subscribe(), self.broker.clock.subscribe());
        loop {
            let taken = self.take(max.max(1));
            if !taken.is_empty() {
                return taken;
            }
            // Neither is ever closed: the broker holds both senders.
            tokio::select! {
                _ = changes.changed() => {}
                _ = ticks.changed() => {}
            }
        }
    }

    fn settler(&self) -> Arc<dyn Settler> {
        Arc::new(MemorySettler { broker: self.broker.clone(), queue: self.queue.clone(), id: self.id })
    }
}

impl Drop for MemoryConsumer {
    fn drop(&mut self) {
        self.broker.change(|state| state.queues.take_back(&self.queue, self.id));
    }
}

struct MemorySettler {
    broker: MemoryBroker,
    queue: String,
    id: ConsumerId,
}

#[async_trait]
impl Settler for MemorySettler {
    async fn settle(&self, handles: &[Handle], settlement: Settlement) {
        let now = countersign_delivery::ports::Clock::now(&self.broker.clock);
        self.broker.change(|state| {
            for handle in handles.iter().filter(|handle| handle.generation == state.generation) {
                state.queues.settle(&self.queue, self.id, handle.tag, settlement, now);
            }
        });
    }
}
