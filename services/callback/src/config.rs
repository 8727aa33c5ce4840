//! Configuration of callback: every key with its default and its bounds.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use countersign_boot::topology::TopologySource;
use countersign_boot::{AccessSection, Client, Frame, Grpc, Http, Log, Settings, Shutdown, Tls, Traces};
use countersign_delivery::Topology;
use countersign_delivery::policy::Policy;
use serde::{Deserialize, Serialize};

use crate::lines::{BreakerFigures, LineFigures};
use crate::reconcile::schedule::Schedule;
use crate::retention;
use crate::upstreams::MAX_ORDERS;
use crate::upstreams::addresses::Addresses;

/// The whole configuration file. Without one: everything on the loopback address, and a `SQLite` file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Section `[log]`.
    pub log: Log,
    /// Section `[traces]`.
    pub traces: Traces,
    /// Section `[http]`: health and metrics; default 127.0.0.1:7113.
    pub http: Http,
    /// Section `[grpc]`: operators' questions and orders; default 127.0.0.1:7103.
    pub grpc: Grpc,
    /// Section `[tls]`: the certificate of both servers.
    pub tls: Tls,
    /// Section `[access]`: who may call them.
    pub access: AccessSection,
    /// Section `[client]`: how it shows itself to upstreams.
    pub client: Client,
    /// Section `[shutdown]`.
    pub shutdown: Shutdown,
    /// Section `[topology]`.
    pub topology: TopologySource,
    /// Section `[database]`: MSG DB; default `sqlite://msg.db`.
    pub database: countersign_store::Config,
    /// Section `[broker]`.
    pub broker: countersign_broker::Config,
    /// Section `[policy]`: how long to wait, how often to resend.
    pub policy: Policy,
    /// Section `[callback]`.
    pub callback: Callback,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            log: Log::default(),
            traces: Traces::default(),
            http: Http::loopback(7113),
            grpc: Grpc::loopback(7103),
            tls: Tls::default(),
            access: AccessSection::default(),
            client: Client::default(),
            shutdown: Shutdown::default(),
            topology: TopologySource::default(),
            database: "sqlite://msg.db".into(),
            broker: countersign_broker::Config::default(),
            policy: Policy::default(),
            callback: Callback::default(),
        }
    }
}

impl Settings for Config {
    fn frame(&self) -> Frame<'_> {
        let Self { log, traces, http, grpc, tls, access, shutdown, .. } = self;
        Frame { log, traces, http, grpc, tls, access, shutdown }
    }

    async fn migrate(&self) -> anyhow::Result<()> {
        Ok(countersign_store::Database::bring_up_to_date(&self.database, countersign_store::Tables::Deliveries).await?)
    }

    fn validate(&self) -> Vec<String> {
        let mut problems = self.database.problems();
        problems.extend(self.client.problems());
        problems.extend(self.broker.problems());
        problems.extend(self.policy.problems());
        problems.extend(self.callback.problems());
        if self.policy.resend_lease_ms <= self.callback.call_deadline_ms {
            problems.push(format!(
                "policy.resend_lease_ms ({}) must be above callback.call_deadline_ms ({}), or two callbacks would call for one order",
                self.policy.resend_lease_ms, self.callback.call_deadline_ms
            ));
        }
        match self.topology.load() {
            Ok(topology) => problems.extend(self.problems_with(&topology)),
            Err(error) => problems.push(error.to_string()),
        }
        problems
    }
}

impl Config {
    /// What does not fit the topology: a row must not count as overdue while its check is on its way through the longest tier, nor be
    /// deleted while its message may be sent again.
    fn problems_with(&self, topology: &Topology) -> Vec<String> {
        let longest = topology.check_tiers().into_iter().max().unwrap_or(0);
        let overdue = (self.policy.overdue_ms <= longest).then(|| {
            format!(
                "policy.overdue_ms ({}) must be above the longest check delay of the topology ({longest}), or every long wait would add a check",
                self.policy.overdue_ms
            )
        });
        overdue.into_iter().chain(retention::problem(&self.callback, topology, &self.policy)).collect()
    }
}

/// Section `[callback]`: consuming, ordering, sweeping, and every bound of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Callback {
    /// Checks in one batch that callback publishes at most; default 256. 1 is the plain scheme: one delayed message per message.
    pub max_batch: usize,
    /// Unsettled batches of receipts at most; default 128.
    pub receipts_prefetch: u16,
    /// Unsettled batches of due checks at most; default 128.
    pub checks_prefetch: u16,
    /// Portions of due checks that are worked on at the same time, so that one that is held up holds up no other; default 8. Each is at most
    /// that part of the prefetch.
    pub checks_in_flight: usize,
    /// Where an upstream without an address of its own is; `{upstream}` stands for its name. Default `http://127.0.0.1:7101`.
    pub upstream_template: String,
    /// Addresses of upstreams by name; they win over the template. Default: none.
    pub upstreams: BTreeMap<String, String>,
    /// How long one resend call may take, milliseconds; default 10000. Must be below `policy.resend_lease_ms`.
    pub call_deadline_ms: u64,
    /// Orders in one resend call at most; default and at most 500.
    pub max_orders: usize,
    /// Resends that one upstream is ordered a second; default 5000.
    pub resend_rate_per_s: NonZeroU32,
    /// Resends at once after a quiet time; default 500.
    pub resend_burst: NonZeroU32,
    /// Resend calls that one upstream is given at the same time; default 2.
    pub calls_in_flight: usize,
    /// How long checks wait for leave to call, and then for the answer to a call, milliseconds; default 1000. What is not through by then is
    /// looked at again later; a call that is under way goes on.
    pub resend_patience_ms: u64,
    /// Failed calls in a row after which an upstream is left alone for a while; default 5.
    pub breaker_failures: u32,
    /// How long it is left alone before one call tries it, milliseconds; default 10000.
    pub breaker_open_ms: u64,
    /// Time between two searches for overdue deliveries, milliseconds; default 30000.
    pub sweep_interval_ms: u64,
    /// Time between two canaries through each check tier, milliseconds; default 60000. They prove that checks come due. 0: none.
    pub canary_interval_ms: u64,
    /// How long downstream remembers what it has done, milliseconds; must be the value configured there. Nothing older is sent again.
    /// Default 604800000 (7 days).
    pub dedup_retention_ms: u64,
    /// How long what is done or discarded is kept, milliseconds since its message was accepted; 0: for ever. What is open or parked is
    /// never deleted. At least `dedup_retention_ms` and `policy.overdue_ms` together, and the longest time after which a message can be
    /// sent again. Default 2592000000 (30 days).
    pub retention_ms: u64,
    /// Dead letters that may wait for an operator in MSG DB; default 1000000. While as many do, the others stay in their queues.
    pub max_dead_letters: u64,
    /// Time between two reconciliations of an upstream by the schedule, milliseconds; default 600000. 0: only on command.
    pub reconcile_interval_ms: u64,
    /// How far such a round goes back behind what is certified, milliseconds; default 3600000.
    pub reconcile_overlap_ms: u64,
    /// How long reconciliation waits for a subscription to answer a probe before it skips it, milliseconds; default 30000.
    pub reconcile_probe_wait_ms: u64,
    /// How long an upstream may take for the sums of an hour, or a page of messages, milliseconds; default 60000.
    pub reconcile_call_deadline_ms: u64,
}

impl Default for Callback {
    fn default() -> Self {
        Self {
            max_batch: 256,
            receipts_prefetch: 128,
            checks_prefetch: 128,
            checks_in_flight: 8,
            upstream_template: "http://127.0.0.1:7101".into(),
            upstreams: BTreeMap::new(),
            call_deadline_ms: 10_000,
            max_orders: MAX_ORDERS,
            resend_rate_per_s: NonZeroU32::new(5_000).unwrap_or(NonZeroU32::MIN),
            resend_burst: NonZeroU32::new(500).unwrap_or(NonZeroU32::MIN),
            calls_in_flight: 2,
            resend_patience_ms: 1_000,
            breaker_failures: 5,
            breaker_open_ms: 10_000,
            sweep_interval_ms: 30_000,
            canary_interval_ms: 60_000,
            dedup_retention_ms: 604_800_000,
            retention_ms: 2_592_000_000,
            max_dead_letters: 1_000_000,
            reconcile_interval_ms: 600_000,
            reconcile_overlap_ms: HOUR_MS,
            reconcile_probe_wait_ms: 30_000,
            reconcile_call_deadline_ms: 60_000,
        }
    }
}

/// Checks in a batch at most: larger ones gain nothing.
const MAX_BATCH: usize = 256;
/// Dead letters at most: more than anybody deals with.
const MAX_DEAD_LETTERS: u64 = 100_000_000;
/// The longest of the short times: an hour.
const HOUR_MS: u64 = 3_600_000;

impl Callback {
    /// Where upstreams are.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        Addresses::new(self.upstreams.clone(), self.upstream_template.clone())
    }

    /// The figures of every upstream's line.
    #[must_use]
    pub fn lines(&self) -> LineFigures {
        LineFigures {
            rate_per_s: self.resend_rate_per_s,
            burst: self.resend_burst,
            calls: self.calls_in_flight,
            patience: Duration::from_millis(self.resend_patience_ms),
            breaker: BreakerFigures { failures: self.breaker_failures, open: Duration::from_millis(self.breaker_open_ms) },
        }
    }

    /// When the schedule reconciles; none: never.
    #[must_use]
    pub fn schedule(&self) -> Option<Schedule> {
        let schedule = Schedule { interval_ms: self.reconcile_interval_ms, overlap_ms: self.reconcile_overlap_ms };
        (self.reconcile_interval_ms > 0).then_some(schedule)
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = self.addresses().problems();
        let size = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        let bounds = [
            ("max_batch", size(self.max_batch), 1, size(MAX_BATCH)),
            ("receipts_prefetch", u64::from(self.receipts_prefetch), 1, 2_000),
            ("checks_prefetch", u64::from(self.checks_prefetch), 1, 2_000),
            ("checks_in_flight", size(self.checks_in_flight), 1, 64),
            ("call_deadline_ms", self.call_deadline_ms, 1, HOUR_MS),
            ("max_orders", size(self.max_orders), 1, size(MAX_ORDERS)),
            ("calls_in_flight", size(self.calls_in_flight), 1, 100),
            ("resend_patience_ms", self.resend_patience_ms, 0, 60_000),
            ("breaker_failures", u64::from(self.breaker_failures), 1, 1_000),
            ("breaker_open_ms", self.breaker_open_ms, 1, HOUR_MS),
            ("sweep_interval_ms", self.sweep_interval_ms, 10, HOUR_MS),
            ("canary_interval_ms", self.canary_interval_ms, 0, HOUR_MS),
            ("dedup_retention_ms", self.dedup_retention_ms, 1, Topology::MAX_DELAY_MS * 100),
            ("max_dead_letters", self.max_dead_letters, 1, MAX_DEAD_LETTERS),
            ("reconcile_interval_ms", self.reconcile_interval_ms, 0, 24 * HOUR_MS),
            ("reconcile_overlap_ms", self.reconcile_overlap_ms, 0, 24 * HOUR_MS),
            ("reconcile_probe_wait_ms", self.reconcile_probe_wait_ms, 1, HOUR_MS),
            ("reconcile_call_deadline_ms", self.reconcile_call_deadline_ms, 1, HOUR_MS),
        ];
        for (key, value, min, max) in bounds {
            if !(min..=max).contains(&value) {
                problems.push(format!("callback.{key} is {value}: use {min} to {max}"));
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Vec<(String, String)> = Vec::new();

    #[test]
    fn the_defaults_are_sound() {
        let config: Config = countersign_boot::config::load(None, NONE).unwrap();
        assert_eq!(config.validate(), Vec::<String>::new());
        assert_eq!(config.database.url.expose(), "sqlite://msg.db");
        assert_eq!(config.callback.resend_burst.get(), 500);
    }

    #[test]
    fn each_wrong_figure_is_named() {
        let callback = Callback {
            max_batch: 0,
            checks_prefetch: 0,
            checks_in_flight: 0,
            calls_in_flight: 101,
            max_orders: 501,
            breaker_failures: 0,
            max_dead_letters: 0,
            upstream_template: "orders:50051".into(),
            ..Callback::default()
        };
        let problems = callback.problems().join("\n");
        let keys = ["max_batch", "checks_prefetch", "checks_in_flight", "calls_in_flight", "max_orders", "breaker_failures"];
        for key in keys.into_iter().chain(["upstream_template", "max_dead_letters"]) {
            assert!(problems.contains(key), "{key} is missing in {problems}");
        }
    }

    #[test]
    fn figures_that_contradict_each_other_are_refused() {
        let mut config = Config::default();
        config.policy.resend_lease_ms = config.callback.call_deadline_ms;
        config.policy.overdue_ms = 900_000;
        let problems = config.validate().join("\n");
        assert!(problems.contains("resend_lease_ms") && problems.contains("overdue_ms"), "{problems}");
    }

    #[test]
    fn a_retention_that_would_forget_too_early_is_refused_and_none_is_sound() {
        let mut config = Config::default();
        let least = config.callback.dedup_retention_ms + config.policy.overdue_ms;
        for (retention_ms, sound) in [(least - 1, false), (least, true), (0, true)] {
            config.callback.retention_ms = retention_ms;
            let problems = config.validate().join("\n");
            assert_eq!(!problems.contains("callback.retention_ms"), sound, "{retention_ms}: {problems}");
        }
    }

    #[test]
    fn one_key_of_the_policy_leaves_the_others_as_they_are() {
        let environment = vec![("COUNTERSIGN_POLICY__MAX_RESENDS".to_owned(), "5".to_owned())];
        let config: Config = countersign_boot::config::load(None, environment).unwrap();
        assert_eq!((config.policy.max_resends, config.policy.overdue_ms), (5, 1_200_000));
    }
}
