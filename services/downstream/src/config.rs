//! What can be configured, with its defaults.

mod subscription;

use std::collections::BTreeSet;

use countersign_boot::topology::TopologySource;
use countersign_boot::{AccessSection, Frame, Grpc, Http, Log, Settings, Shutdown, Tls, Traces};
use countersign_delivery::SubscriptionName;
use countersign_delivery::policy::Policy;
use countersign_delivery::topology::Guard;
use serde::{Deserialize, Serialize};

use crate::receive::JITTER_MAX;
pub use crate::receive::OnUnknown;
pub use subscription::SubscriptionSection;

/// Most unsettled deliveries of one consumer.
const PREFETCH_MAX: u16 = 1_000;
/// Longest wait for more receipts, milliseconds.
const LINGER_MAX_MS: u64 = 100;
/// Receipts that wait for no more.
const ENOUGH_RECEIPTS: usize = 64;

/// The configuration of a downstream, the stock one or one with handlers of its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Logs.
    pub log: Log,
    /// Traces.
    pub traces: Traces,
    /// Health and metrics; 127.0.0.1:7112.
    pub http: Http,
    /// What operators ask of it; 127.0.0.1:7102.
    pub grpc: Grpc,
    /// The certificate of both servers.
    pub tls: Tls,
    /// Who may call them.
    pub access: AccessSection,
    /// How a stop goes.
    pub shutdown: Shutdown,
    /// Where `RabbitMQ` is.
    pub broker: countersign_broker::Config,
    /// Where Redis is. With guard `inbox` alone nothing connects to it.
    pub redis: countersign_dedup::Server,
    /// Where the database is that the guards `inbox`, `tiered` and `redis+archive` use; default `sqlite:downstream.db`. Without such a
    /// guard nothing connects to it.
    pub database: countersign_store::Config,
    /// Exchanges and subscriptions.
    pub topology: TopologySource,
    /// Callback's figures, from which the longest time of a resend is computed: give the same ones as there.
    pub policy: Policy,
    /// Downstream itself.
    pub downstream: DownstreamSection,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            log: Log::default(),
            traces: Traces::default(),
            http: Http::loopback(7112),
            grpc: Grpc::loopback(7102),
            tls: Tls::default(),
            access: AccessSection::default(),
            shutdown: Shutdown::default(),
            broker: countersign_broker::Config::default(),
            redis: countersign_dedup::Server::default(),
            database: "sqlite:downstream.db".into(),
            topology: TopologySource::default(),
            policy: Policy::default(),
            downstream: DownstreamSection::default(),
        }
    }
}

/// Section `[downstream]`. What a subscription does not say for itself is taken from here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DownstreamSection {
    /// Shown to the broker, and leads the tokens of claims; letters, digits, `.`, `-`, `_`. Default `downstream`.
    pub name: String,
    /// How long a done message is known, milliseconds; default 7 days. Must be longer than the longest time after which a message can be
    /// sent again.
    pub dedup_retention_ms: u64,
    /// How long a done message is known in the database, where the guard has one, milliseconds; default 30 days, 0: for ever. At least
    /// `dedup_retention_ms`.
    pub inbox_retention_ms: u64,
    /// How long a claim, and a report that a message is held, is believed without renewal, milliseconds; default 30 000.
    pub lease_ms: u64,
    /// What is held for longer is reported, milliseconds; default 10 000. Callback's `probe_grace_ms` must be longer than this and the
    /// broker's detection of a crash.
    pub progress_after_ms: u64,
    /// After a crash: `rerun` (default) or `park`.
    pub on_unknown: OnUnknown,
    /// Crashes that a message may cause before it is poison; default 3.
    pub max_crashes: u32,
    /// Handlers at a time, per subscription; default 32.
    pub concurrency: u32,
    /// Unsettled messages, per subscription, 1 to 1 000; default 256.
    pub prefetch: u16,
    /// Longest time of one call of a handler, milliseconds; default 30 000.
    pub timeout_ms: u64,
    /// The share of a retry tier's delay by which a failed message may come again earlier, at random, 0 to 0.9; default 0.2: from a tier of 10
    /// seconds after 8 to 10. Never later than the tier says, so a tier stays first in, first out; a message that another owner holds comes
    /// no earlier than that one's lease ends.
    pub retry_jitter: f64,
    /// Most receipts in one message and claims in one round trip; default 256. 1 is the plain scheme.
    pub max_batch: usize,
    /// How long the receipt of a message that is done waits for others, milliseconds, at most 100; default 30. Nobody waits for it: its handler
    /// is free already, and its check comes much later. Once there are 64 of them, or a quarter of the smallest `prefetch`, they wait for no more.
    pub receipt_linger_ms: u64,
    /// After so many failures in a row of an endpoint, or of a handler in Rust, its messages wait and spend no retries; default 20, 0 switches
    /// it off. Subscriptions with the same endpoint wait together.
    pub breaker_failures: u32,
    /// For so long at first, milliseconds; default 5 000.
    pub breaker_pause_ms: u64,
    /// What each subscription has of its own.
    #[serde(rename = "subscription")]
    pub subscriptions: Vec<SubscriptionSection>,
}

impl Default for DownstreamSection {
    fn default() -> Self {
        Self {
            name: "downstream".into(),
            dedup_retention_ms: 7 * 24 * 3_600_000,
            inbox_retention_ms: 30 * 24 * 3_600_000,
            lease_ms: 30_000,
            progress_after_ms: 10_000,
            on_unknown: OnUnknown::Rerun,
            max_crashes: 3,
            concurrency: 32,
            prefetch: 256,
            timeout_ms: 30_000,
            retry_jitter: 0.2,
            max_batch: 256,
            receipt_linger_ms: 30,
            breaker_failures: 20,
            breaker_pause_ms: 5_000,
            subscriptions: Vec::new(),
        }
    }
}

impl DownstreamSection {
    /// How long a message that is done under this guard is remembered, milliseconds; 0: for ever.
    #[must_use]
    pub const fn memory_ms(&self, guard: Guard) -> u64 {
        if guard.uses_database() { self.inbox_retention_ms } else { self.dedup_retention_ms }
    }

    /// How many receipts go out without waiting for others: what is unsettled must not be all waiting.
    pub(crate) fn enough_receipts(&self) -> usize {
        let own = self.subscriptions.iter().filter_map(|subscription| subscription.prefetch);
        let smallest = own.chain([self.prefetch]).min().unwrap_or(self.prefetch);
        usize::from(smallest / 4).clamp(1, ENOUGH_RECEIPTS)
    }

    /// A subscription's own entry, if it has one.
    #[must_use]
    pub fn subscription(&self, name: &str) -> Option<&SubscriptionSection> {
        self.subscriptions.iter().find(|subscription| subscription.name == name)
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if SubscriptionName::new(&self.name).is_err() {
            problems.push(format!("downstream.name {:?} is not valid: use letters, digits, `.`, `-`, `_`", self.name));
        }
        let positive = [
            ("lease_ms", self.lease_ms),
            ("progress_after_ms", self.progress_after_ms),
            ("timeout_ms", self.timeout_ms),
            ("concurrency", self.concurrency.into()),
            ("breaker_pause_ms", self.breaker_pause_ms),
        ];
        problems.extend(
            positive.iter().filter(|(_, value)| *value == 0).map(|(name, _)| format!("downstream.{name} is 0: use 1 or more")),
        );
        if !(1..=PREFETCH_MAX).contains(&self.prefetch) {
            problems.push(format!("downstream.prefetch is {}: use 1 to {PREFETCH_MAX}", self.prefetch));
        }
        if !(1..=1_000).contains(&self.max_batch) {
            problems.push(format!("downstream.max_batch is {}: use 1 to 1000", self.max_batch));
        }
        if !(0.0..=JITTER_MAX).contains(&self.retry_jitter) {
            problems.push(format!("downstream.retry_jitter is {}: use 0 to {JITTER_MAX}", self.retry_jitter));
        }
        if self.receipt_linger_ms > LINGER_MAX_MS {
            problems.push(format!("downstream.receipt_linger_ms is {}: use 0 to {LINGER_MAX_MS}", self.receipt_linger_ms));
        }
        if self.inbox_retention_ms > 0 && self.inbox_retention_ms < self.dedup_retention_ms {
            problems.push(
                "downstream.inbox_retention_ms is below dedup_retention_ms: the database must remember at least as long as Redis, or for ever (0)"
                    .into(),
            );
        }
        let mut seen = BTreeSet::new();
        for subscription in &self.subscriptions {
            if !seen.insert(&subscription.name) {
                problems.push(format!("downstream.subscription {} is there twice: remove one", subscription.name));
            }
            problems.extend(subscription.problems("downstream.subscription"));
        }
        problems
    }
}

impl Config {
    /// What claims need: the keys' prefix is the topology's, and how long they live is said in `[downstream]`.
    pub(crate) fn claims(&self, prefix: &str) -> countersign_dedup::Config {
        let retention_ms = self.downstream.dedup_retention_ms;
        countersign_dedup::Config { server: self.redis.clone(), prefix: prefix.to_owned(), retention_ms }
    }
}

impl Settings for Config {
    fn frame(&self) -> Frame<'_> {
        let Self { log, traces, http, grpc, tls, access, shutdown, .. } = self;
        Frame { log, traces, http, grpc, tls, access, shutdown }
    }

    /// The inbox, which the guards `inbox`, `tiered` and `redis+archive` use.
    async fn migrate(&self) -> anyhow::Result<()> {
        Ok(countersign_store::Database::bring_up_to_date(&self.database, countersign_store::Tables::Inbox).await?)
    }

    fn validate(&self) -> Vec<String> {
        let mut problems = self.downstream.problems();
        problems.extend(self.broker.problems());
        problems.extend(self.topology.load().err().map(|error| error.to_string()));
        problems.extend(self.claims("countersign").problems());
        problems.extend(self.database.problems());
        problems.extend(self.policy.problems());
        if self.redis.response_timeout_ms.saturating_mul(2) > self.downstream.lease_ms {
            problems.push(
                "redis.response_timeout_ms is above half of downstream.lease_ms: a lease would end before it is renewed".into(),
            );
        }
        if self.policy.probe_grace_ms <= self.downstream.progress_after_ms {
            problems.push(
                "policy.probe_grace_ms must be above downstream.progress_after_ms: a held message must be reported before it counts as lost"
                    .into(),
            );
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_boot::config::load;

    fn problems(text: &str) -> Vec<String> {
        let file = std::env::temp_dir().join(format!("downstream-{}-{:x}.toml", std::process::id(), text.len()));
        std::fs::write(&file, text).unwrap();
        let loaded = load::<Config>(Some(&file), Vec::<(String, String)>::new());
        std::fs::remove_file(&file).unwrap();
        match loaded {
            Ok(_) => Vec::new(),
            Err(countersign_boot::Error::Config(problems)) => problems,
            Err(other) => vec![other.to_string()],
        }
    }

    #[test]
    fn the_defaults_are_sound() {
        assert_eq!(Config::default().validate(), Vec::<String>::new());
        assert_eq!(problems(""), Vec::<String>::new());
    }

    #[test]
    fn a_subscription_may_say_things_for_itself() {
        let text = "[[downstream.subscription]]\nname = 'inventory'\nendpoint = 'http://127.0.0.1:9/orders'\nconcurrency = 4\n";
        assert_eq!(problems(text), Vec::<String>::new());
    }

    #[test]
    fn whoever_takes_in_little_signs_without_waiting_for_much() {
        for (common, own, expected) in
            [(256, None, 64), (100, None, 25), (256, Some(9), 2), (256, Some(1), 1), (1, Some(1_000), 1)]
        {
            let subscriptions = vec![SubscriptionSection { prefetch: own, ..SubscriptionSection::default() }];
            let section = DownstreamSection { prefetch: common, subscriptions, ..DownstreamSection::default() };
            assert_eq!(section.enough_receipts(), expected, "{common}, {own:?}");
        }
    }

    #[test]
    fn every_problem_is_named() {
        let text = "[database]\nurl = 'mysql://x'\n[downstream]\nprefetch = 1001\ninbox_retention_ms = 1\nreceipt_linger_ms = 101\nretry_jitter = 1\nlease_ms = 3000\n[[downstream.subscription]]\nname = 'a b'\nendpoint = 'ftp://x'\n";
        let problems = problems(text).join("\n");
        for key in [
            "database.url",
            "prefetch",
            "inbox_retention_ms",
            "receipt_linger_ms",
            "retry_jitter is 1: use 0 to 0.9",
            "response_timeout_ms",
            "a b",
            "endpoint",
        ] {
            assert!(problems.contains(key), "{key} is missing in {problems}");
        }
        assert!(!problems.contains("ftp://x"), "addresses may hold secrets");
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(problems("[downstream]\nprefech = 1\n")[0].contains("prefech"));
        assert!(problems("[[downstream.subscription]]\nname = 'a'\nendpont = 'x'\n")[0].contains("endpont"));
    }
}
