//! What is to be declared, with every argument.
//!
//! All queues are durable quorum queues. Whatever dead-letters does so at least once, which takes `overflow = reject-publish`: without it the
//! broker silently falls back to at most once. The delivery limit is explicit, because brokers differ in their default and what exceeds a
//! limit without a dead-letter target is thrown away.

use std::collections::BTreeMap;

use countersign_delivery::Topology;
use countersign_delivery::routing::ExchangeKind;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};

/// A limit that is never reached: for queues whose messages have nowhere else to go.
const NO_DELIVERY_LIMIT: u32 = i32::MAX as u32;

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) exchanges: Vec<ExchangePlan>,
    pub(super) queues: Vec<QueuePlan>,
    pub(super) bindings: Vec<BindingPlan>,
}

#[derive(Debug)]
pub(super) struct ExchangePlan {
    pub(super) name: String,
    pub(super) kind: lapin::ExchangeKind,
    pub(super) durable: bool,
    pub(super) auto_delete: bool,
    pub(super) internal: bool,
}

#[derive(Debug)]
pub(super) struct QueuePlan {
    pub(super) name: String,
    pub(super) arguments: FieldTable,
}

#[derive(Debug)]
pub(super) struct BindingPlan {
    pub(super) queue: String,
    pub(super) exchange: String,
    pub(super) routing_key: String,
    pub(super) arguments: FieldTable,
}

impl Plan {
    /// Targets come before what dead-letters to them, so that nothing is ever without its target.
    pub(super) fn of(topology: &Topology) -> Self {
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
            queues.push(queue(work, limit, Some(&gives_up_to), None));
            for delay in &subscription.retry_delays_ms {
                queues.push(queue(&subscription.retry_queue(*delay), limit, Some(work), Some(*delay)));
            }
            bindings.extend(subscription.bindings.iter().map(|binding| BindingPlan {
                queue: work.to_owned(),
                exchange: binding.exchange.clone(),
                routing_key: binding.routing_key.clone(),
                arguments: texts(&binding.arguments),
            }));
        }
        let exchanges = topology.exchanges.iter().map(|exchange| ExchangePlan {
            name: exchange.name.clone(),
            kind: kind(exchange.kind),
            durable: exchange.durable,
            auto_delete: exchange.auto_delete,
            internal: exchange.internal,
        });
        Self { exchanges: exchanges.collect(), queues, bindings }
    }
}

fn queue(name: &str, delivery_limit: u32, dead_letters_to: Option<&str>, ttl_ms: Option<u64>) -> QueuePlan {
    let mut arguments = FieldTable::default();
    let mut set = |name: &str, value: AMQPValue| {
        arguments.insert(name.into(), value);
    };
    set("x-queue-type", text("quorum"));
    set("x-delivery-limit", AMQPValue::LongLongInt(i64::from(delivery_limit)));
    if let Some(target) = dead_letters_to {
        set("x-dead-letter-exchange", text(""));
        set("x-dead-letter-routing-key", text(target));
        set("x-dead-letter-strategy", text("at-least-once"));
        set("x-overflow", text("reject-publish"));
    }
    if let Some(ttl_ms) = ttl_ms {
        set("x-message-ttl", AMQPValue::LongLongInt(i64::try_from(ttl_ms).unwrap_or(i64::MAX)));
    }
    QueuePlan { name: name.to_owned(), arguments }
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(text))
}

fn texts(arguments: &BTreeMap<String, String>) -> FieldTable {
    let pairs = arguments.iter().map(|(name, value)| (ShortString::from(name.as_str()), text(value)));
    FieldTable::from(pairs.collect::<BTreeMap<_, _>>())
}

const fn kind(kind: ExchangeKind) -> lapin::ExchangeKind {
    match kind {
        ExchangeKind::Direct => lapin::ExchangeKind::Direct,
        ExchangeKind::Topic => lapin::ExchangeKind::Topic,
        ExchangeKind::Fanout => lapin::ExchangeKind::Fanout,
        ExchangeKind::Headers => lapin::ExchangeKind::Headers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology() -> Topology {
        let text = "[[subscription]]\nname = 'inventory.orders'\nretry_delays_ms = [1000]\nbind = [{ exchange = 'countersign.messages', routing_key = 'order.#' }]";
        Topology::from_toml(text).unwrap()
    }

    fn argument(queue: &QueuePlan, name: &str) -> Option<String> {
        queue.arguments.inner().get(name).map(|value| match value {
            AMQPValue::LongString(text) => text.to_string(),
            AMQPValue::LongLongInt(number) => number.to_string(),
            other => format!("{other:?}"),
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
