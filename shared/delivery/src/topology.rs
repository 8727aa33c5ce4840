//! The topology: exchanges, subscriptions with their bindings and retry tiers, check tiers. One file owns it.

mod guard;
mod problems;
mod route;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::id::SubscriptionName;
use crate::message::Message;
use crate::routing::ExchangeKind;

pub use guard::Guard;
pub use route::{Mode, OnFull, Route};

/// What `topology.toml` says, with documented defaults. Unknown keys are refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Topology {
    /// Format of the file; 1.
    pub version: u32,
    /// Leads the names of the system's own queues.
    pub prefix: String,
    /// The delays that checks go through.
    pub checks: CheckTiers,
    /// The broker's delivery limit of every work queue. High on purpose: it also counts what a crashing process had merely prefetched.
    pub delivery_limit: u32,
    /// The business's exchanges.
    #[serde(rename = "exchange")]
    pub exchanges: Vec<Exchange>,
    /// The consumer groups.
    #[serde(rename = "subscription")]
    pub subscriptions: Vec<Subscription>,
    /// How messages are delivered, by exchange and routing key; the first that matches decides.
    #[serde(rename = "route")]
    pub routes: Vec<Route>,
}

/// The delays of checks; each is one queue with one fixed TTL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckTiers {
    /// From the publish to the first look, milliseconds.
    pub check_delay_ms: u64,
    /// From each further look to the next, milliseconds; the last one repeats.
    pub recheck_delays_ms: Vec<u64>,
}

/// An exchange of the business.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    /// Its name; not empty, not beginning with `amq.`.
    pub name: String,
    /// How it routes.
    pub kind: ExchangeKind,
    /// Survives a restart of the broker.
    #[serde(default = "yes")]
    pub durable: bool,
    /// Goes when its last binding goes.
    #[serde(default)]
    pub auto_delete: bool,
    /// Not to be published to by clients.
    #[serde(default)]
    pub internal: bool,
    /// Its alternate exchange: where a message goes that none of its bindings lets through.
    #[serde(default)]
    pub alternate: Option<String>,
}

/// A consumer group: one work queue, with its dead-letter queue and retry tiers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subscription {
    /// Also the name of its work queue.
    pub name: SubscriptionName,
    /// What feeds it.
    #[serde(rename = "bind")]
    pub bindings: Vec<Binding>,
    /// The tiers a failed message goes through, milliseconds, in order; when the last one failed too it is dead-lettered.
    #[serde(default = "default_retries")]
    pub retry_delays_ms: Vec<u64>,
    /// Whether its consumer signs probes. False for a consumer that is not the stock one; then a time-out decides.
    #[serde(default = "yes")]
    pub probes: bool,
    /// What makes its effects happen once; `redis` by default.
    #[serde(default)]
    pub guard: Guard,
    /// Most messages in its work queue; the broker refuses what comes above it. None: no bound but the broker's own.
    #[serde(default)]
    pub max_length: Option<u32>,
}

/// One binding of a work queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// From this exchange.
    pub exchange: String,
    /// By this key or pattern; ignored by fanout and headers exchanges.
    #[serde(default)]
    pub routing_key: String,
    /// For headers exchanges.
    #[serde(default)]
    pub arguments: BTreeMap<String, String>,
}

const fn yes() -> bool {
    true
}

fn default_retries() -> Vec<u64> {
    vec![1_000, 10_000, 60_000, 300_000]
}

impl Default for CheckTiers {
    fn default() -> Self {
        Self { check_delay_ms: 120_000, recheck_delays_ms: vec![15_000, 60_000, 300_000, 900_000] }
    }
}

impl Default for Topology {
    fn default() -> Self {
        let messages = Exchange {
            name: "countersign.messages".into(),
            kind: ExchangeKind::Topic,
            durable: true,
            auto_delete: false,
            internal: false,
            alternate: None,
        };
        Self {
            version: 1,
            prefix: "countersign".into(),
            checks: CheckTiers::default(),
            delivery_limit: 1_000,
            exchanges: vec![messages],
            subscriptions: Vec::new(),
            routes: Vec::new(),
        }
    }
}

/// Why a topology cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// Not TOML, or an unknown or missing key.
    #[error("the topology cannot be read: {0}")]
    Unreadable(#[from] toml::de::Error),
    /// It can be read, but contradicts itself.
    #[error("the topology is not sound: {}", .0.join("; "))]
    Unsound(Vec<String>),
}

impl Topology {
    /// Longest TTL a tier may have: the broker counts them in 32 bits.
    pub const MAX_DELAY_MS: u64 = 4_294_967_295;

    /// Reads `topology.toml` and checks it.
    ///
    /// # Errors
    /// [`TopologyError`] with every problem found, each with what to do.
    pub fn from_toml(text: &str) -> Result<Self, TopologyError> {
        let topology: Self = toml::from_str(text)?;
        let problems = topology.problems();
        if problems.is_empty() { Ok(topology) } else { Err(TopologyError::Unsound(problems)) }
    }

    /// An exchange by its name.
    #[must_use]
    pub fn exchange(&self, name: &str) -> Option<&Exchange> {
        self.exchanges.iter().find(|exchange| exchange.name == name)
    }

    /// A subscription by its name.
    #[must_use]
    pub fn subscription(&self, name: &SubscriptionName) -> Option<&Subscription> {
        self.subscriptions.iter().find(|subscription| subscription.name == *name)
    }

    /// Who would get a message of this exchange, key and headers; sorted. Computed once, when the message is accepted.
    ///
    /// What no binding lets through goes on to the alternate exchange, and so on. As on the broker, no exchange is gone through twice: a
    /// circle ends where it would close, and then nobody gets the message.
    #[must_use]
    pub fn required(&self, exchange: &str, routing_key: &str, headers: &BTreeMap<String, String>) -> Vec<SubscriptionName> {
        let mut through = self.alternates(exchange).map(|exchange| self.let_through(exchange, routing_key, headers));
        through.find(|names| !names.is_empty()).unwrap_or_default().into_iter().collect()
    }

    /// The exchange, its alternate exchange, that one's, and so on; each once. Empty when it is unknown.
    pub fn alternates(&self, exchange: &str) -> impl Iterator<Item = &Exchange> {
        let mut seen = BTreeSet::new();
        let next = |exchange: &&Exchange| exchange.alternate.as_deref().and_then(|name| self.exchange(name));
        std::iter::successors(self.exchange(exchange), next).take_while(move |exchange| seen.insert(exchange.name.as_str()))
    }

    /// Who gets it by the exchange's own bindings.
    fn let_through(
        &self,
        exchange: &Exchange,
        routing_key: &str,
        headers: &BTreeMap<String, String>,
    ) -> BTreeSet<SubscriptionName> {
        let gets = |subscription: &&Subscription| {
            subscription.bindings.iter().any(|binding| {
                binding.exchange == exchange.name
                    && exchange.kind.matches(&binding.routing_key, &binding.arguments, routing_key, headers)
            })
        };
        self.subscriptions.iter().filter(gets).map(|subscription| subscription.name.clone()).collect()
    }

    /// Whether the broker's own routing would reach exactly the message's required set.
    #[must_use]
    pub fn still_routes(&self, message: &Message) -> bool {
        self.required(&message.exchange, &message.routing_key, &message.headers) == message.required
    }

    /// The queue that receipts go to.
    #[must_use]
    pub fn receipts_queue(&self) -> String {
        format!("{}.receipts", self.prefix)
    }

    /// The queue of due checks.
    #[must_use]
    pub fn checks_queue(&self) -> String {
        format!("{}.checks", self.prefix)
    }

    /// The queue of one check tier.
    #[must_use]
    pub fn check_tier_queue(&self, delay_ms: u64) -> String {
        format!("{}.checks.{delay_ms}", self.prefix)
    }

    /// The queue for what the system's own consumers cannot read.
    #[must_use]
    pub fn quarantine_queue(&self) -> String {
        format!("{}.quarantine", self.prefix)
    }

    /// The topic exchange on which callback tells what became of deliveries that did not go the straight way.
    #[must_use]
    pub fn events_exchange(&self) -> String {
        format!("{}.events", self.prefix)
    }

    /// Every check delay, ascending, without repeats.
    #[must_use]
    pub fn check_tiers(&self) -> Vec<u64> {
        let rechecks = self.checks.recheck_delays_ms.iter().copied();
        let tiers: BTreeSet<u64> = rechecks.chain([self.checks.check_delay_ms]).collect();
        tiers.into_iter().collect()
    }

    /// The delay before the next look after `waits` earlier waits, milliseconds.
    #[must_use]
    pub fn recheck_delay_ms(&self, waits: u32) -> u64 {
        let delays = &self.checks.recheck_delays_ms;
        let last = delays.len().saturating_sub(1);
        let at = usize::try_from(waits).unwrap_or(usize::MAX).min(last);
        delays.get(at).copied().unwrap_or(self.checks.check_delay_ms)
    }

    /// How long a check that has waited `waits` times has been under way altogether, milliseconds.
    #[must_use]
    pub fn waited_ms(&self, waits: u32) -> u64 {
        let listed = u32::try_from(self.checks.recheck_delays_ms.len()).unwrap_or(u32::MAX);
        let single: u64 = (0..waits.min(listed)).map(|wait| self.recheck_delay_ms(wait)).sum();
        let repeated = u64::from(waits.saturating_sub(listed)).saturating_mul(self.recheck_delay_ms(listed));
        self.checks.check_delay_ms.saturating_add(single).saturating_add(repeated)
    }
}

impl Subscription {
    /// Its dead-letter queue.
    #[must_use]
    pub fn dead_queue(&self) -> String {
        format!("{}.dead", self.name)
    }

    /// Where the broker puts what it gives up on by itself (delivery limit). Downstream reads it, moves it to [`Self::dead_queue`] with the reason
    /// and signs for it; so `.dead` holds only what somebody has signed for.
    #[must_use]
    pub fn limit_queue(&self) -> String {
        format!("{}.limit", self.name)
    }

    /// What its work queue dead-letters to: [`Self::limit_queue`], or at once [`Self::dead_queue`] when the consumer is not the stock one.
    #[must_use]
    pub fn dead_letter_queue(&self) -> String {
        if self.probes { self.limit_queue() } else { self.dead_queue() }
    }

    /// The queue of one of its retry tiers.
    #[must_use]
    pub fn retry_queue(&self, delay_ms: u64) -> String {
        format!("{}.retry.{delay_ms}", self.name)
    }
}
