//! What contradicts itself in a topology, or would not route as it says.

use std::collections::BTreeSet;

use crate::id::SubscriptionName;
use crate::routing::{ExchangeKind, HeaderMatch, is_own_header};
use crate::topology::{Binding, Exchange, Mode, Topology};

/// Leads the names that a broker lets nobody declare.
const BROKERS_OWN: &str = "amq.";
/// Longest name, key and name of an argument, bytes: AMQP's short strings.
const MAX_NAME_BYTES: usize = 255;
/// Most bytes of all arguments of a binding: they travel in one frame, and the smallest usual frame has 128 KiB.
const MAX_ARGUMENTS_BYTES: usize = 64 * 1024;

impl Topology {
    /// What contradicts itself, each with its remedy; empty when sound.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.version != 1 {
            problems.push(format!("version is {}: this build reads version 1", self.version));
        }
        if SubscriptionName::new(&self.prefix).is_err() {
            problems.push(format!("prefix {:?} is not valid: use letters, digits, `.`, `-`, `_`", self.prefix));
        }
        let queues = self.subscriptions.iter().map(|subscription| subscription.name.to_string()).chain([self.receipts_queue()]);
        for queue in queues.filter(|queue| queue.starts_with(BROKERS_OWN)) {
            problems.push(format!("queue {queue} begins with `{BROKERS_OWN}`, which the broker keeps for itself: rename the subscription or the prefix"));
        }
        self.exchange_problems(&mut problems);
        self.subscription_problems(&mut problems);
        self.route_problems(&mut problems);
        if self.checks.recheck_delays_ms.is_empty() {
            problems.push("checks.recheck_delays_ms is empty: name at least one delay".into());
        }
        for delay in self.check_tiers().into_iter().chain(self.subscriptions.iter().flat_map(|s| s.retry_delays_ms.clone())) {
            if !(1..=Self::MAX_DELAY_MS).contains(&delay) {
                problems.push(format!("a delay of {delay} ms is not possible: use 1 to {}", Self::MAX_DELAY_MS));
            }
        }
        problems
    }

    fn exchange_problems(&self, problems: &mut Vec<String>) {
        let mut seen = BTreeSet::new();
        for exchange in &self.exchanges {
            let name = &exchange.name;
            if name.is_empty() || name.starts_with(BROKERS_OWN) || name.len() > MAX_NAME_BYTES {
                problems.push(format!(
                    "exchange name {name:?} is not valid: 1 to {MAX_NAME_BYTES} bytes, not beginning with `{BROKERS_OWN}`"
                ));
            }
            if name.contains(['\r', '\n']) {
                problems.push(format!("exchange name {name:?} has a line break, which the broker takes out: leave it out"));
            }
            if *name == self.events_exchange() {
                problems.push(format!("exchange {name} is callback's own, for its events: rename it or the prefix"));
            }
            if !seen.insert(name) {
                problems.push(format!("exchange {name} is declared twice: remove one"));
            }
            if let Some(alternate) = &exchange.alternate {
                problems.extend(self.alternate_problem(exchange, alternate));
            }
        }
    }

    /// An alternate exchange lives as long as what falls back on it: the broker skips one that is gone, and returns the message.
    fn alternate_problem(&self, exchange: &Exchange, alternate: &str) -> Option<String> {
        let name = &exchange.name;
        let Some(found) = self.exchange(alternate) else {
            return Some(format!("exchange {name} has the unknown alternate {alternate:?}: declare it under [[exchange]]"));
        };
        if exchange.durable && !found.durable {
            return Some(format!(
                "exchange {name} is durable and its alternate {alternate} is not, so it would lose it when the broker restarts: \
                 make {alternate} durable"
            ));
        }
        let goes = found.auto_delete && alternate != name;
        goes.then(|| format!("exchange {name} has the alternate {alternate}, which is deleted with its last binding: take auto_delete out of {alternate}"))
    }

    fn subscription_problems(&self, problems: &mut Vec<String>) {
        let mut seen = BTreeSet::new();
        for subscription in &self.subscriptions {
            let name = subscription.name.as_str();
            if *name == self.events_exchange() {
                problems.push(format!("exchange {name} is callback's own, for its events: rename it or the prefix"));
            }
            if !seen.insert(name) {
                problems.push(format!("subscription {name} is declared twice: remove one"));
            }
            if name == self.prefix || name.starts_with(&format!("{}.", self.prefix)) {
                problems.push(format!(
                    "subscription {name} begins with the prefix {}, which is for the system's own queues: rename it",
                    self.prefix
                ));
            }
            let own = [subscription.dead_queue(), subscription.limit_queue()];
            let own = own.into_iter().chain(subscription.retry_delays_ms.iter().map(|delay| subscription.retry_queue(*delay)));
            for queue in own.filter(|queue| self.subscriptions.iter().any(|other| other.name.as_str() == queue)) {
                problems
                    .push(format!("subscription {queue} has the name of a queue that belongs to subscription {name}: rename it"));
            }
            let mut delays = BTreeSet::new();
            for delay in subscription.retry_delays_ms.iter().filter(|delay| !delays.insert(**delay)) {
                problems.push(format!(
                    "subscription {name} has {delay} in retry_delays_ms twice, which would be one queue: remove one"
                ));
            }
            if subscription.max_length == Some(0) {
                problems.push(format!("subscription {name} has max_length 0, which would refuse everything: use 1 or more"));
            }
            if subscription.bindings.is_empty() {
                problems.push(format!("subscription {name} has no [[subscription.bind]]: nothing would reach it"));
            }
            for binding in &subscription.bindings {
                self.binding_problems(name, binding, problems);
            }
        }
    }

    fn route_problems(&self, problems: &mut Vec<String>) {
        let mut seen = BTreeSet::new();
        for route in &self.routes {
            let (from, key) = (&route.exchange, &route.routing_key);
            let mut problem = |what: String| problems.push(format!("the route of {from} by {key:?} {what}"));
            match self.exchange(from) {
                None => problem("is of an unknown exchange: declare it under [[exchange]]".into()),
                Some(exchange) if exchange.internal => {
                    problem("is of an internal exchange, which nobody publishes to: name the one that feeds it".into());
                }
                Some(_) => {}
            }
            if key.len() > MAX_NAME_BYTES {
                problem(format!("has a routing_key of {} bytes: use at most {MAX_NAME_BYTES}", key.len()));
            }
            if !seen.insert((from, key)) {
                problem("is there twice, and the first one decides: remove one".into());
            }
            match route.mode {
                Mode::Verified if route.check => problem("is verified, and so has a check in any case: leave `check` out".into()),
                Mode::Confirmed if route.check => {
                    problem("is of mode confirmed, which stores nothing to send again: leave `check` out, or use outbox".into());
                }
                Mode::Verified | Mode::Outbox | Mode::Confirmed => {}
            }
        }
    }

    fn binding_problems(&self, subscription: &str, binding: &Binding, problems: &mut Vec<String>) {
        let from = &binding.exchange;
        let Some(exchange) = self.exchange(from) else {
            problems.push(format!(
                "subscription {subscription} binds to the unknown exchange {from:?}: declare it under [[exchange]]"
            ));
            return;
        };
        let mut problem = |what: String| problems.push(format!("subscription {subscription} binds to {from} {what}"));
        let key = binding.routing_key.len();
        if key > MAX_NAME_BYTES {
            problem(format!("by a routing_key of {key} bytes: use at most {MAX_NAME_BYTES}"));
        }
        if let Some(name) = binding.arguments.keys().find(|name| name.len() > MAX_NAME_BYTES) {
            problem(format!("by an argument whose name has {} bytes: use at most {MAX_NAME_BYTES}", name.len()));
        }
        let arguments: usize = binding.arguments.iter().map(|(name, value)| name.len() + value.len()).sum();
        if arguments > MAX_ARGUMENTS_BYTES {
            problem(format!("by arguments of {arguments} bytes: use at most {MAX_ARGUMENTS_BYTES}"));
        }
        if exchange.kind != ExchangeKind::Headers {
            return;
        }
        if let (None, Some(word)) = (HeaderMatch::of(&binding.arguments), binding.arguments.get(HeaderMatch::ARGUMENT)) {
            problem(format!("with x-match {word:?}: use all, any, all-with-x or any-with-x"));
        }
        for name in binding.arguments.keys().filter(|name| is_own_header(name)) {
            problem(format!(
                "by the header {name}, which is the system's own and differs from attempt to attempt: use a header of yours"
            ));
        }
    }
}
