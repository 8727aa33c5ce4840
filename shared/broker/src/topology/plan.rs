//! What is to be declared, with every argument.
//!
//! All queues are durable quorum queues. Whatever dead-letters does so at least once, which takes `overflow = reject-publish`: without it the
//! broker silently falls back to at most once. The delivery limit is explicit, because brokers differ in their default and what exceeds a
//! limit without a dead-letter target is thrown away.

use std::collections::BTreeMap;

use countersign_delivery::Topology;
use countersign_delivery::routing::ExchangeKind;
use countersign_delivery::topology::Exchange;

/// A limit that is never reached: for queues whose messages have nowhere else to go.
const NO_DELIVERY_LIMIT: u32 = i32::MAX as u32;

/// All that the broker is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// As the file says, and the one for events.
    pub exchanges: Vec<Exchange>,
    /// In the order in which they are declared.
    pub queues: Vec<QueuePlan>,
    /// Of work queues only; everything else goes over the default exchange.
    pub bindings: Vec<BindingPlan>,
}

/// One durable queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuePlan {
    /// Its name.
    pub name: String,
    /// What it is declared with, by the broker's names (`x-queue-type` and so on).
    pub arguments: BTreeMap<&'static str, Argument>,
}

/// One binding of a work queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindingPlan {
    /// To this queue.
    pub queue: String,
    /// From this exchange.
    pub exchange: String,
    /// By this key or pattern.
    pub routing_key: String,
    /// For headers exchanges.
    pub arguments: BTreeMap<String, String>,
}

/// The value of an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    /// Such as `quorum`.
    Text(String),
    /// Such as a TTL in milliseconds.
    Number(i64),
}

impl QueuePlan {
    /// Whether the broker moves its messages on, by expiry or by the delivery limit.
    #[must_use]
    pub fn dead_letters(&self) -> bool {
        self.arguments.contains_key("x-dead-letter-routing-key")
    }
}

impl Plan {
    /// Targets come before what dead-letters to them, so that nothing is ever without its target.
    #[must_use]
    pub fn of(topology: &Topology) -> Self {
        let limit = topology.delivery_limit;
        let quarantine = topology.quarantine_queue();
        let checks = topology.checks_queue();
        let mut queues = vec![
            queue(&quarantine, NO_DELIVERY_LIMIT, None, None),
            queue(&topology.receipts_queue(), limit, Some(&quarantine), None),
            queue(&checks, limit, Some(&quarantine), None),
        ];
        for delay in topology.check_tiers() {
            queues.push(queue(&topology.check_tier_queue(delay), limit, Some(&checks), Some(delay)));
        }
        let mut bindings = Vec::new();
        for subscription in &topology.subscriptions {
            let (work, dead) = (subscription.name.as_str(), subscription.dead_queue());
            queues.push(queue(&dead, NO_DELIVERY_LIMIT, None, None));
            // What the broker gives up on by itself waits for downstream to sign for it.
            let gives_up_to = subscription.dead_letter_queue();
            if gives_up_to != dead {
                queues.push(queue(&gives_up_to, NO_DELIVERY_LIMIT, None, None));
            }
            let mut work_queue = queue(work, limit, Some(&gives_up_to), None);
            // Beside `reject-publish`, which every work queue has: what comes above it is nacked.
            let bound = subscription.max_length.map(|length| ("x-max-length", Argument::Number(i64::from(length))));
            work_queue.arguments.extend(bound);
            queues.push(work_queue);
            for delay in &subscription.retry_delays_ms {
                queues.push(queue(&subscription.retry_queue(*delay), limit, Some(work), Some(*delay)));
            }
            bindings.extend(subscription.bindings.iter().map(|binding| BindingPlan {
                queue: work.to_owned(),
                exchange: binding.exchange.clone(),
                routing_key: binding.routing_key.clone(),
                arguments: binding.arguments.clone(),
            }));
        }
        let mut exchanges = topology.exchanges.clone();
        exchanges.push(events(topology));
        Self { exchanges, queues, bindings }
    }
}

/// Where callback publishes its events. Nothing of ours is bound to it: what nobody listens to is nobody's.
fn events(topology: &Topology) -> Exchange {
    let name = topology.events_exchange();
    Exchange { name, kind: ExchangeKind::Topic, durable: true, auto_delete: false, internal: false, alternate: None }
}

fn queue(name: &str, delivery_limit: u32, dead_letters_to: Option<&str>, ttl_ms: Option<u64>) -> QueuePlan {
    let text = |text: &str| Argument::Text(text.to_owned());
    let mut arguments =
        BTreeMap::from([("x-queue-type", text("quorum")), ("x-delivery-limit", Argument::Number(i64::from(delivery_limit)))]);
    if let Some(target) = dead_letters_to {
        arguments.extend([
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text(target)),
            ("x-dead-letter-strategy", text("at-least-once")),
            ("x-overflow", text("reject-publish")),
        ]);
    }
    if let Some(ttl_ms) = ttl_ms {
        arguments.insert("x-message-ttl", Argument::Number(i64::try_from(ttl_ms).unwrap_or(i64::MAX)));
    }
    QueuePlan { name: name.to_owned(), arguments }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology() -> Topology {
        let text = "[[subscription]]\nname = 'inventory.orders'\nretry_delays_ms = [1000]\nbind = [{ exchange = 'countersign.messages', routing_key = 'order.#' }]";
        Topology::from_toml(text).unwrap()
    }

    fn argument(queue: &QueuePlan, name: &str) -> Option<String> {
        queue.arguments.get(name).map(|value| match value {
            Argument::Text(text) => text.clone(),
            Argument::Number(number) => number.to_string(),
        })
    }

    #[test]
    fn every_queue_is_a_quorum_queue_with_a_limit_and_dead_letters_at_least_once() {
        for queue in Plan::of(&topology()).queues {
            assert_eq!(argument(&queue, "x-queue-type").as_deref(), Some("quorum"));
            assert!(argument(&queue, "x-delivery-limit").is_some());
            let strategy = argument(&queue, "x-dead-letter-strategy");
            let terminal = argument(&queue, "x-dead-letter-routing-key").is_none();
            assert_eq!(strategy.as_deref(), (!terminal).then_some("at-least-once"), "{}", queue.name);
            assert_eq!(argument(&queue, "x-overflow").as_deref(), (!terminal).then_some("reject-publish"), "{}", queue.name);
        }
    }

    #[test]
    fn only_the_work_queue_has_the_bound_of_its_subscription() {
        let mut topology = topology();
        topology.subscriptions[0].max_length = Some(50);
        for queue in Plan::of(&topology).queues {
            let expected = (queue.name == "inventory.orders").then(|| "50".to_owned());
            assert_eq!(argument(&queue, "x-max-length"), expected, "{}", queue.name);
        }
    }

    #[test]
    fn targets_come_first_and_exist() {
        let mut seen = Vec::new();
        for queue in Plan::of(&topology()).queues {
            if let Some(target) = argument(&queue, "x-dead-letter-routing-key") {
                assert!(seen.contains(&target), "{} dead-letters to {target}", queue.name);
            }
            seen.push(queue.name);
        }
        for expected in ["inventory.orders", "inventory.orders.dead", "inventory.orders.retry.1000", "countersign.checks.120000"]
        {
            assert!(seen.iter().any(|name| name == expected), "{expected} in {seen:?}");
        }
    }
}
