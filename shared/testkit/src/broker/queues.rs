//! Queues: what waits, what consumers hold, where it goes when it expires or is rejected.

use std::collections::{BTreeMap, VecDeque};

use countersign_delivery::ports::broker::{Delivered, Handle, HeaderValue, Publication, Settlement};
use countersign_delivery::{Timestamp, Topology};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConsumerId(pub(super) u64);

#[derive(Debug, Default)]
pub(super) struct Queues {
    by_name: BTreeMap<String, Queue>,
    last_tag: u64,
    last_place: u64,
}

#[derive(Debug, Default)]
struct Queue {
    ttl_ms: Option<u64>,
    dead_letters_to: Option<String>,
    delivery_limit: Option<u32>,
    ready: VecDeque<Item>,
    held: Vec<HeldItem>,
}

#[derive(Clone, Debug)]
struct Item {
    publication: Publication,
    /// Its place in the order of arrival: what is put back goes back there.
    place: u64,
    since: Timestamp,
    /// How often it was handed out and came back.
    returns: u32,
}

#[derive(Debug)]
struct HeldItem {
    item: Item,
    by: ConsumerId,
    tag: u64,
}

impl Queues {
    /// The queues that `countersign topology apply` declares.
    pub(super) fn of(topology: &Topology) -> Self {
        let mut queues = Self::default();
        let plain = [topology.receipts_queue(), topology.checks_queue(), topology.quarantine_queue()];
        for name in plain {
            queues.by_name.insert(name, Queue::default());
        }
        for delay in topology.check_tiers() {
            queues.by_name.insert(topology.check_tier_queue(delay), Queue::tier(delay, topology.checks_queue()));
        }
        for subscription in &topology.subscriptions {
            let work = Queue {
                dead_letters_to: Some(subscription.dead_letter_queue()),
                delivery_limit: Some(topology.delivery_limit),
                ..Queue::default()
            };
            queues.by_name.insert(subscription.name.as_str().into(), work);
            queues.by_name.insert(subscription.dead_queue(), Queue::default());
            queues.by_name.insert(subscription.dead_letter_queue(), Queue::default());
            for delay in &subscription.retry_delays_ms {
                let tier = Queue::tier(*delay, subscription.name.as_str().into());
                queues.by_name.insert(subscription.retry_queue(*delay), tier);
            }
        }
        queues
    }

    /// Where a publication goes; none: its exchange does not exist.
    pub(super) fn route(&self, topology: &Topology, publication: &Publication) -> Option<Vec<String>> {
        let names = if publication.exchange.is_empty() {
            vec![publication.routing_key.clone()]
        } else if publication.exchange == topology.events_exchange() {
            // Nobody listens.
            Vec::new()
        } else {
            topology.exchange(&publication.exchange)?;
            let headers = publication.properties.headers.iter();
            let headers = headers.filter_map(|(name, value)| Some((name.clone(), text(value)?))).collect();
            let required = topology.required(&publication.exchange, &publication.routing_key, &headers);
            required.iter().map(ToString::to_string).collect()
        };
        Some(names.into_iter().filter(|name| self.by_name.contains_key(name)).collect())
    }

    pub(super) fn push(&mut self, queue: &str, publication: Publication, now: Timestamp) {
        self.last_place += 1;
        let item = Item { publication, place: self.last_place, since: now, returns: 0 };
        if let Some(queue) = self.by_name.get_mut(queue) {
            queue.ready.push_back(item);
        }
    }

    /// Moves on what has expired; only the head of a queue expires.
    pub(super) fn expire(&mut self, now: Timestamp) {
        let names: Vec<String> = self.by_name.keys().cloned().collect();
        for name in names {
            while let Some((publication, expired_at)) = self.by_name.get_mut(&name).and_then(|queue| queue.expired_head(now)) {
                self.dead_letter(&name, publication, expired_at);
            }
        }
    }

    fn dead_letter(&mut self, from: &str, publication: Publication, at: Timestamp) {
        let Some(to) = self.by_name.get(from).and_then(|queue| queue.dead_letters_to.clone()) else { return };
        let mut moved = Publication { exchange: String::new(), routing_key: to.clone(), ..publication };
        moved.properties.expiration_ms = None;
        self.push(&to, moved, at);
    }

    pub(super) fn take(&mut self, queue: &str, by: ConsumerId, generation: u64, max: usize) -> Vec<Delivered> {
        let Some(queue) = self.by_name.get_mut(queue) else { return Vec::new() };
        let count = max.min(queue.ready.len());
        let mut taken = Vec::with_capacity(count);
        for item in queue.ready.drain(..count) {
            self.last_tag += 1;
            taken.push(Delivered {
                handle: Handle { generation, tag: self.last_tag },
                exchange: item.publication.exchange.clone(),
                routing_key: item.publication.routing_key.clone(),
                redelivered: item.returns > 0,
                properties: item.publication.properties.clone(),
                body: item.publication.body.clone(),
            });
            queue.held.push(HeldItem { item, by, tag: self.last_tag });
        }
        taken
    }

    pub(super) fn settle(&mut self, name: &str, by: ConsumerId, tag: u64, settlement: Settlement, now: Timestamp) {
        let Some(queue) = self.by_name.get_mut(name) else { return };
        let Some(at) = queue.held.iter().position(|held| held.tag == tag && held.by == by) else { return };
        let item = queue.held.remove(at).item;
        match settlement {
            Settlement::Ack => {}
            Settlement::DeadLetter => self.dead_letter(name, item.publication, now),
            Settlement::Requeue => {
                if let Some(item) = queue.put_back(item) {
                    self.dead_letter(name, item.publication, now);
                }
            }
        }
    }

    /// A consumer went: what it held goes back.
    pub(super) fn take_back(&mut self, name: &str, by: ConsumerId) {
        self.take_back_where(name, |held| held.by == by);
    }

    /// Every connection went.
    pub(super) fn take_everything_back(&mut self) {
        let names: Vec<String> = self.by_name.keys().cloned().collect();
        for name in names {
            self.take_back_where(&name, |_| true);
        }
    }

    fn take_back_where(&mut self, name: &str, which: impl Fn(&HeldItem) -> bool) {
        let Some(queue) = self.by_name.get_mut(name) else { return };
        let (back, kept): (Vec<_>, Vec<_>) = queue.held.drain(..).partition(which);
        queue.held = kept;
        let rejected: Vec<Item> = back.into_iter().filter_map(|held| queue.put_back(held.item)).collect();
        for item in rejected {
            let since = item.since;
            self.dead_letter(name, item.publication, since);
        }
    }

    pub(super) fn held_by(&self, name: &str, by: ConsumerId) -> usize {
        self.by_name.get(name).map_or(0, |queue| queue.held.iter().filter(|held| held.by == by).count())
    }

    pub(super) fn ready(&self, name: &str) -> Vec<Publication> {
        let ready = self.by_name.get(name).into_iter().flat_map(|queue| &queue.ready);
        ready.map(|item| item.publication.clone()).collect()
    }

    pub(super) fn is_there(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    pub(super) fn unsettled(&self, name: &str) -> usize {
        self.by_name.get(name).map_or(0, |queue| queue.held.len())
    }

    pub(super) fn purge(&mut self, name: &str) {
        if let Some(queue) = self.by_name.get_mut(name) {
            queue.ready.clear();
        }
    }

    pub(super) fn delete(&mut self, name: &str) {
        self.by_name.remove(name);
    }
}

impl Queue {
    fn tier(ttl_ms: u64, to: String) -> Self {
        Self { ttl_ms: Some(ttl_ms), dead_letters_to: Some(to), ..Self::default() }
    }

    fn expired_head(&mut self, now: Timestamp) -> Option<(Publication, Timestamp)> {
        let head = self.ready.front()?;
        let lives_ms = [self.ttl_ms, head.publication.properties.expiration_ms].into_iter().flatten().min()?;
        let expires_at = head.since.plus_millis(lives_ms);
        if expires_at > now {
            return None;
        }
        self.ready.pop_front().map(|item| (item.publication, expires_at))
    }

    /// Puts an item back at its place; gives it out again when it has come back too often.
    fn put_back(&mut self, item: Item) -> Option<Item> {
        let item = Item { returns: item.returns + 1, ..item };
        if self.delivery_limit.is_some_and(|limit| item.returns > limit) {
            return Some(item);
        }
        let at = self.ready.partition_point(|other| other.place < item.place);
        self.ready.insert(at, item);
        None
    }
}

fn text(value: &HeaderValue) -> Option<String> {
    value.as_text().map(str::to_owned)
}
