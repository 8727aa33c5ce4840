//! A subscription declared in code, beside its handler.

use std::collections::BTreeMap;

use countersign_delivery::topology::{Binding, Guard, Subscription as InTopology};

use crate::config::{OnUnknown, SubscriptionSection};

/// What a handler expects of its subscription, in one place.
///
/// What it says about the topology ([`bind`](Self::bind), [`retry`](Self::retry), [`guard`](Self::guard), [`max_length`](Self::max_length)) must be
/// what the topology file says, which alone is applied to the broker: start-up refuses a difference and shows both sides. What it leaves out is
/// not compared.
///
/// Its figures ([`concurrency`](Self::concurrency) and the others) hold unless the configuration file's `[[downstream.subscription]]` of the same
/// name says otherwise; what neither says is taken from `[downstream]`.
///
/// ```
/// use countersign_downstream::{Guard, OnUnknown, Subscription};
///
/// let orders = Subscription::named("inventory.orders")
///     .bind("orders", "order.created.#")
///     .guard(Guard::Redis)
///     .retry([1_000, 10_000])
///     .concurrency(8)
///     .prefetch(64)
///     .timeout_ms(5_000)
///     .rate_per_second(200)
///     .on_unknown(OnUnknown::Park)
///     .max_crashes(2);
/// assert_eq!(orders.name(), "inventory.orders");
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Subscription {
    bindings: Option<Vec<Binding>>,
    retry_delays_ms: Option<Vec<u64>>,
    guard: Option<Guard>,
    max_length: Option<u32>,
    figures: SubscriptionSection,
}

impl Subscription {
    /// The subscription of this name in the topology, about which nothing else is said.
    pub fn named(name: &str) -> Self {
        let figures = SubscriptionSection { name: name.to_owned(), ..SubscriptionSection::default() };
        Self { bindings: None, retry_delays_ms: None, guard: None, max_length: None, figures }
    }

    /// It is bound to this exchange by this key or pattern. Say all its bindings or none.
    pub fn bind(self, exchange: &str, routing_key: &str) -> Self {
        self.bound(exchange, routing_key, BTreeMap::new())
    }

    /// It is bound to this headers exchange by these arguments. Say all its bindings or none.
    pub fn bind_headers<'a>(self, exchange: &str, arguments: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let arguments = arguments.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        self.bound(exchange, "", arguments.collect())
    }

    fn bound(mut self, exchange: &str, routing_key: &str, arguments: BTreeMap<String, String>) -> Self {
        let binding = Binding { exchange: exchange.to_owned(), routing_key: routing_key.to_owned(), arguments };
        self.bindings.get_or_insert_default().push(binding);
        self
    }

    /// Its retry tiers, milliseconds, in order; none at all: what fails once is dead-lettered.
    pub fn retry(self, delays_ms: impl IntoIterator<Item = u64>) -> Self {
        Self { retry_delays_ms: Some(delays_ms.into_iter().collect()), ..self }
    }

    /// What makes its effects happen once.
    pub fn guard(self, guard: Guard) -> Self {
        Self { guard: Some(guard), ..self }
    }

    /// Most messages in its work queue.
    pub fn max_length(self, messages: u32) -> Self {
        Self { max_length: Some(messages), ..self }
    }

    /// Handlers at a time.
    pub fn concurrency(mut self, handlers: u32) -> Self {
        self.figures.concurrency = Some(handlers);
        self
    }

    /// Unsettled messages, 1 to 1 000.
    pub fn prefetch(mut self, messages: u16) -> Self {
        self.figures.prefetch = Some(messages);
        self
    }

    /// Longest time of one call of the handler, milliseconds.
    pub fn timeout_ms(mut self, timeout_ms: u64) -> Self {
        self.figures.timeout_ms = Some(timeout_ms);
        self
    }

    /// Most messages that one process starts to handle in a second.
    pub fn rate_per_second(mut self, starts: u32) -> Self {
        self.figures.rate_per_second = Some(starts);
        self
    }

    /// The share of a retry tier's delay by which a failed message may come again earlier, 0 to 0.9.
    pub fn retry_jitter(mut self, share: f64) -> Self {
        self.figures.retry_jitter = Some(share);
        self
    }

    /// What to do with a message after a crash while it was handled.
    pub fn on_unknown(mut self, on_unknown: OnUnknown) -> Self {
        self.figures.on_unknown = Some(on_unknown);
        self
    }

    /// Crashes that a message may cause before it is poison.
    pub fn max_crashes(mut self, crashes: u32) -> Self {
        self.figures.max_crashes = Some(crashes);
        self
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.figures.name
    }

    pub(crate) const fn figures(&self) -> &SubscriptionSection {
        &self.figures
    }

    /// What is said here and is not what the topology says, each with both sides and what to do.
    pub(crate) fn differences(&self, topology: &InTopology) -> Vec<String> {
        let mut differences = Vec::new();
        let mut differ = |what: &str, key: &str, code: String, file: String| {
            if code != file {
                differences.push(format!(
                    "subscription {}: the code says {what} {code}, the topology file says {file}: change the code, or `{key}` in the file and run \
                     `countersign topology apply`",
                    self.name()
                ));
            }
        };
        if let Some(bindings) = &self.bindings {
            differ("bound to", "bind", list_of_bindings(bindings), list_of_bindings(&topology.bindings));
        }
        if let Some(delays) = &self.retry_delays_ms {
            differ("retry after ms", "retry_delays_ms", format!("{delays:?}"), format!("{:?}", topology.retry_delays_ms));
        }
        if let Some(guard) = self.guard {
            differ("guard", "guard", guard.as_str().to_owned(), topology.guard.as_str().to_owned());
        }
        if let Some(length) = self.max_length {
            let file = topology.max_length.map_or_else(|| "no bound".to_owned(), |length| length.to_string());
            differ("max_length", "max_length", length.to_string(), file);
        }
        differences
    }
}

/// Bindings in one order, each once; they are a set.
fn list_of_bindings(bindings: &[Binding]) -> String {
    let mut words: Vec<String> = bindings.iter().map(binding_in_words).collect();
    words.sort();
    words.dedup();
    format!("[{}]", words.join(", "))
}

fn binding_in_words(Binding { exchange, routing_key, arguments }: &Binding) -> String {
    let arguments: Vec<String> = arguments.iter().map(|(name, value)| format!(" {name}={value:?}")).collect();
    format!("{exchange}/{routing_key}{}", arguments.concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_testkit::build::a_topology;

    fn in_topology() -> InTopology {
        let bind = |exchange: &str, key: &str| Binding {
            exchange: exchange.into(),
            routing_key: key.into(),
            arguments: BTreeMap::new(),
        };
        InTopology {
            bindings: vec![bind("orders", "order.created.#"), bind("orders", "order.changed")],
            retry_delays_ms: vec![1_000, 10_000],
            guard: Guard::Redis,
            max_length: Some(500),
            ..a_topology().subscriptions[0].clone()
        }
    }

    #[test]
    fn what_code_and_topology_say_alike_or_only_one_of_them_says_is_no_difference() {
        let same = Subscription::named("inventory")
            .bind("orders", "order.changed")
            .bind("orders", "order.created.#")
            .retry([1_000, 10_000])
            .guard(Guard::Redis)
            .max_length(500);
        for declared in [same, Subscription::named("inventory"), Subscription::named("inventory").concurrency(3)] {
            assert_eq!(declared.differences(&in_topology()), Vec::<String>::new(), "{declared:?}");
        }
    }

    #[test]
    fn every_difference_shows_both_sides_and_what_to_do() {
        let named = || Subscription::named("inventory");
        let rows = [
            (named().bind("orders", "order.#"), "[orders/order.#]", "[orders/order.changed, orders/order.created.#]", "bind"),
            (named().bind_headers("h", [("x", "1")]), "[h/ x=\"1\"]", "[orders/order.changed, orders/order.created.#]", "bind"),
            (named().retry([]), "[]", "[1000, 10000]", "retry_delays_ms"),
            (named().retry([10_000, 1_000]), "[10000, 1000]", "[1000, 10000]", "retry_delays_ms"),
            (named().guard(Guard::Inbox), "inbox", "redis", "guard"),
            (named().max_length(400), "400", "500", "max_length"),
        ];
        for (declared, code, file, key) in rows {
            let differences = declared.differences(&in_topology());
            let [one] = &differences[..] else { panic!("{differences:?}") };
            for words in [format!(" {code}, the topology"), format!(" says {file}: "), format!("`{key}` in the file")] {
                assert!(one.contains(&words), "{words} is missing in {one}");
            }
        }
        let all = Subscription::named("inventory").retry([]).guard(Guard::Inbox).max_length(1);
        assert_eq!(all.differences(&in_topology()).len(), 3);
    }
}
