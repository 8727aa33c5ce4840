//! Configuration of upstream: every key with its default and its bounds.

use countersign_boot::topology::TopologySource;
use countersign_boot::{AccessSection, Frame, Grpc, Http, Log, Settings, Shutdown, Tls, Traces};
use countersign_delivery::UpstreamName;
use countersign_delivery::policy::Policy;
use serde::{Deserialize, Serialize};

use crate::{confirmed, retention};

/// The whole configuration file. Without one: everything on the loopback address, and a `SQLite` file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Section `[log]`.
    pub log: Log,
    /// Section `[traces]`.
    pub traces: Traces,
    /// Section `[http]`: sends, health and metrics; default 127.0.0.1:7111.
    pub http: Http,
    /// Section `[grpc]`: sends and resends; default 127.0.0.1:7101.
    pub grpc: Grpc,
    /// Section `[tls]`: the certificate of both servers.
    pub tls: Tls,
    /// Section `[access]`: who may call them.
    pub access: AccessSection,
    /// Section `[shutdown]`.
    pub shutdown: Shutdown,
    /// Section `[topology]`.
    pub topology: TopologySource,
    /// Section `[database]`: where messages are stored; default `sqlite://upstream.db`.
    pub database: countersign_store::Config,
    /// Section `[broker]`.
    pub broker: countersign_broker::Config,
    /// Section `[policy]`: callback's figures, from which the longest time of a resend is computed; give the same ones as there.
    pub policy: Policy,
    /// Section `[upstream]`.
    pub upstream: UpstreamSection,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            log: Log::default(),
            traces: Traces::default(),
            http: Http::loopback(7111),
            grpc: Grpc::loopback(7101),
            tls: Tls::default(),
            access: AccessSection::default(),
            shutdown: Shutdown::default(),
            topology: TopologySource::default(),
            database: "sqlite://upstream.db".into(),
            broker: countersign_broker::Config::default(),
            policy: Policy::default(),
            upstream: UpstreamSection::default(),
        }
    }
}

impl Settings for Config {
    fn frame(&self) -> Frame<'_> {
        let Self { log, traces, http, grpc, tls, access, shutdown, .. } = self;
        Frame { log, traces, http, grpc, tls, access, shutdown }
    }

    async fn migrate(&self) -> anyhow::Result<()> {
        Ok(countersign_store::Database::bring_up_to_date(&self.database, countersign_store::Tables::Messages).await?)
    }

    fn validate(&self) -> Vec<String> {
        let mut problems = self.database.problems();
        problems.extend(self.broker.problems());
        problems.extend(self.policy.problems());
        match self.topology.load() {
            Ok(topology) => {
                problems.extend(retention::problem(&self.upstream, &topology, &self.policy));
                problems.extend(confirmed::problem(&self.upstream, &topology));
            }
            Err(error) => problems.push(error.to_string()),
        }
        problems.extend(self.upstream.problems());
        problems.extend(self.too_few_connections());
        problems
    }
}

impl Config {
    /// Callers' transactions must leave the heartbeat a connection, or this process would be taken for dead.
    fn too_few_connections(&self) -> Option<String> {
        let (all, taken) = (self.database.max_connections as usize, self.upstream.max_transactions + self.upstream.committers);
        let shared = !self.database.url.expose().starts_with("sqlite:");
        (shared && all <= taken).then(|| {
            format!(
                "database.max_connections is {all}: set it above upstream.max_transactions and committers together ({taken}), which \
                 would leave none for the heartbeat"
            )
        })
    }
}

/// Section `[upstream]`: sending, and every bound of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamSection {
    /// The name of this producing service, the same for all of its replicas; default `upstream`.
    pub name: UpstreamName,
    /// The exchange of messages that name none; default `countersign.messages`.
    pub default_exchange: String,
    /// Largest body, bytes; default 1 MiB, at most 15 MiB.
    pub max_body_bytes: usize,
    /// Messages that one delayed check covers at most; default 256. 1 is the plain scheme: one delayed message per message.
    pub max_batch: usize,
    /// How long a check waits for others to share a batch with, milliseconds; default and at most 10.
    pub check_linger_ms: u64,
    /// Rows that one INSERT covers at most; default 256.
    pub commit_batch: usize,
    /// Commits at a time; default 2. On `SQLite` they take turns.
    pub committers: usize,
    /// How long a send waits for its commit before it answers `UNAVAILABLE`, milliseconds; default 10000.
    pub commit_wait_ms: u64,
    /// How long a caller's transaction may take from BEGIN until its COMMIT is sent, milliseconds; default 10000, or `lease_ms` if that is
    /// shorter, which is also the most. Then it is rolled back.
    pub transaction_timeout_ms: Option<u64>,
    /// How long a source may take to give one body again, milliseconds; default 5000.
    pub source_timeout_ms: u64,
    /// Callers' transactions at a time; default 4. Each holds a connection of `[database]`. On `SQLite` they take turns.
    pub max_transactions: usize,
    /// How long a committed send waits for the broker before it answers `COMMITTED`, milliseconds; default 2000.
    pub confirm_wait_ms: u64,
    /// Messages accepted and not settled before sends are refused with `RESOURCE_EXHAUSTED`; default 100000.
    pub max_unconfirmed: usize,
    /// What a refused caller is told to wait, milliseconds; default 1000.
    pub retry_after_ms: u64,
    /// Bytes of messages that wait for their commit, each its body and 2 KiB; default 64 MiB.
    pub max_queued_bytes: usize,
    /// Bytes of messages that are being published, each its body and 2 KiB; default 64 MiB. What does not fit is read from the table later.
    pub max_in_flight_bytes: usize,
    /// How far the watermark may lag before new messages go into a further incarnation; default 200000.
    pub max_outstanding: u64,
    /// Incarnations of one process that may be alive at a time; default 16. When so many are, messages stay in the newest, however far
    /// its watermark lags; a warning says so.
    pub max_incarnations: usize,
    /// When a row of mode `outbox` that the broker has not confirmed is published again by a sweeper, milliseconds; default 300000. Should be
    /// longer than `broker.confirm_timeout_ms`: what is on its way would be published twice.
    pub outbox_sweep_after_ms: u64,
    /// How often the broker may refuse or return such a row before one more makes it wait for a human; default 3.
    pub outbox_max_tries: u32,
    /// How long a settled message is kept, milliseconds since it was accepted; default 7 days, 0 keeps everything. Must be longer than the
    /// longest time after which a message can be sent again, and should be no shorter than `dedup_retention_ms` of callback. A repeat
    /// under the idempotency key of a deleted message is a new message.
    pub retention_ms: u64,
    /// The longest time of one call of a handler, milliseconds: the longest `timeout_ms` of downstream; default 30000.
    pub handler_timeout_ms: u64,
    /// How long a downstream's claim is believed, milliseconds: its `lease_ms`; default 30000.
    pub handler_lease_ms: u64,
    /// Time between two heartbeats, milliseconds; default 1000.
    pub heartbeat_ms: u64,
    /// How long another's heartbeat must stand still before it counts as dead, milliseconds; default 10000.
    pub lease_ms: u64,
    /// Shortest pause before what was not confirmed is published again, milliseconds; default 250. Doubles with each try.
    pub republish_min_ms: u64,
    /// Longest such pause, milliseconds; default 10000.
    pub republish_max_ms: u64,
    /// Requests to `POST /v1/messages` at a time; default 4096. One more is answered 429.
    pub http_max_requests: usize,
    /// Bytes of such requests in memory, from the first byte read to the answer; default 64 MiB. What does not fit is answered 429.
    pub http_max_held_bytes: usize,
    /// How long such a request may take to arrive, milliseconds; default 10000. Then it is answered 408.
    pub http_read_timeout_ms: u64,
    /// How long readiness waits for the first sight of the broker, milliseconds; default 10000. Then sends are taken without it.
    pub start_wait_ms: u64,
}

const MIB: usize = 1024 * 1024;

impl Default for UpstreamSection {
    fn default() -> Self {
        Self {
            name: default_name(),
            default_exchange: "countersign.messages".into(),
            max_body_bytes: MIB,
            max_batch: 256,
            check_linger_ms: 10,
            commit_batch: 256,
            committers: 2,
            commit_wait_ms: 10_000,
            transaction_timeout_ms: None,
            max_transactions: 4,
            source_timeout_ms: 5_000,
            confirm_wait_ms: 2_000,
            max_unconfirmed: 100_000,
            retry_after_ms: 1_000,
            max_queued_bytes: 64 * MIB,
            max_in_flight_bytes: 64 * MIB,
            max_outstanding: 200_000,
            max_incarnations: 16,
            outbox_sweep_after_ms: 300_000,
            outbox_max_tries: 3,
            retention_ms: 7 * 24 * 3_600_000,
            handler_timeout_ms: 30_000,
            handler_lease_ms: 30_000,
            heartbeat_ms: 1_000,
            lease_ms: 10_000,
            republish_min_ms: 250,
            republish_max_ms: 10_000,
            http_max_requests: 4_096,
            http_max_held_bytes: 64 * MIB,
            http_read_timeout_ms: 10_000,
            start_wait_ms: 10_000,
        }
    }
}

#[allow(clippy::expect_used, reason = "a constant that the tests of this file prove valid")]
fn default_name() -> UpstreamName {
    UpstreamName::new("upstream").expect("eight letters")
}

impl UpstreamSection {
    /// Largest [`UpstreamSection::max_body_bytes`]: the broker takes 16 MiB, headers included.
    pub const MAX_BODY_BYTES: usize = 15 * MIB;
    /// Most rows of an INSERT, and entries of a check: larger batches gain nothing.
    pub const MAX_BATCH: usize = 256;

    /// How long a caller's transaction may take. On `SQLite` the heartbeat waits for it, so it is not longer than a lease.
    pub(crate) fn transaction_limit_ms(&self) -> u64 {
        const DEFAULT_MS: u64 = 10_000;
        self.transaction_timeout_ms.unwrap_or(DEFAULT_MS.min(self.lease_ms))
    }

    fn problems(&self) -> Vec<String> {
        const HOUR_MS: usize = 3_600_000;
        let mut problems = Vec::new();
        let mut within = |key: &str, value: usize, min: usize, max: usize| {
            if !(min..=max).contains(&value) {
                problems.push(format!("upstream.{key} is {value}: use {min} to {max}"));
            }
        };
        let millis = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
        within("max_body_bytes", self.max_body_bytes, 1, Self::MAX_BODY_BYTES);
        within("max_batch", self.max_batch, 1, Self::MAX_BATCH);
        within("check_linger_ms", millis(self.check_linger_ms), 0, 10);
        within("commit_batch", self.commit_batch, 1, Self::MAX_BATCH);
        within("committers", self.committers, 1, 64);
        within("commit_wait_ms", millis(self.commit_wait_ms), 1, HOUR_MS);
        within("transaction_timeout_ms", millis(self.transaction_limit_ms()), 1, millis(self.lease_ms));
        within("source_timeout_ms", millis(self.source_timeout_ms), 1, 60_000);
        within("max_transactions", self.max_transactions, 1, 1_000);
        within("confirm_wait_ms", millis(self.confirm_wait_ms), 0, HOUR_MS);
        within("max_unconfirmed", self.max_unconfirmed, 1, 10_000_000);
        within("retry_after_ms", millis(self.retry_after_ms), 1, HOUR_MS);
        within("max_queued_bytes", self.max_queued_bytes, 16 * MIB, 4096 * MIB);
        within("max_in_flight_bytes", self.max_in_flight_bytes, 16 * MIB, 4096 * MIB);
        within("max_incarnations", self.max_incarnations, 2, 1_000);
        within("outbox_sweep_after_ms", millis(self.outbox_sweep_after_ms), 100, 7 * 24 * HOUR_MS);
        within("outbox_max_tries", usize::try_from(self.outbox_max_tries).unwrap_or(usize::MAX), 0, 1_000);
        within("handler_timeout_ms", millis(self.handler_timeout_ms), 1, usize::MAX);
        within("handler_lease_ms", millis(self.handler_lease_ms), 1, usize::MAX);
        within("heartbeat_ms", millis(self.heartbeat_ms), 10, 60_000);
        within("republish_min_ms", millis(self.republish_min_ms), 1, HOUR_MS);
        within("republish_max_ms", millis(self.republish_max_ms), millis(self.republish_min_ms), HOUR_MS);
        within("http_max_requests", self.http_max_requests, 1, 1_000_000);
        within("http_max_held_bytes", self.http_max_held_bytes, 32 * MIB, 4096 * MIB);
        within("http_read_timeout_ms", millis(self.http_read_timeout_ms), 1, HOUR_MS);
        within("start_wait_ms", millis(self.start_wait_ms), 0, HOUR_MS);
        if self.lease_ms < 3 * self.heartbeat_ms {
            problems
                .push("upstream.lease_ms is below three heartbeats (heartbeat_ms): a short pause would look like death".into());
        }
        if self.max_outstanding <= self.max_unconfirmed as u64 {
            problems.push("upstream.max_outstanding must be above max_unconfirmed: raise it".into());
        }
        if self.default_exchange.is_empty() {
            problems.push("upstream.default_exchange is empty: name one of the topology file".into());
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound() {
        assert_eq!(Config::default().validate(), Vec::<String>::new());
        assert_eq!(default_name().as_str(), "upstream");
    }

    #[test]
    fn each_wrong_figure_is_named() {
        let wrong = UpstreamSection {
            max_body_bytes: 16 * MIB,
            max_batch: 0,
            check_linger_ms: 11,
            lease_ms: 2_000,
            max_outstanding: 10,
            max_unconfirmed: 11,
            http_max_requests: 0,
            http_max_held_bytes: 31 * MIB,
            http_read_timeout_ms: 0,
            transaction_timeout_ms: Some(2_001),
            max_transactions: 0,
            ..UpstreamSection::default()
        };
        let problems = wrong.problems().join("\n");
        let figures = ["max_body_bytes", "max_batch", "check_linger_ms", "lease_ms", "max_outstanding"];
        let figures = figures.into_iter().chain(["transaction_timeout_ms", "max_transactions"]);
        for key in figures.chain(["http_max_requests", "http_max_held_bytes", "http_read_timeout_ms"]) {
            assert!(problems.contains(key), "{key} is missing in {problems}");
        }
    }

    #[test]
    fn transactions_that_leave_no_connection_are_refused() {
        let of = |url: &str, max_transactions| {
            let upstream = UpstreamSection { max_transactions, ..UpstreamSection::default() };
            Config { database: url.into(), upstream, ..Config::default() }.validate().join("\n")
        };
        assert_eq!(of("postgres://shop@127.0.0.1/shop", 5), "");
        assert!(of("postgres://shop@127.0.0.1/shop", 6).contains("database.max_connections is 8"));
        assert_eq!(of("sqlite:shop.db", 6), "", "they take turns");
    }

    #[test]
    fn a_retention_that_is_shorter_than_a_resend_may_take_is_refused() {
        let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/local/topology.toml");
        let topology = TopologySource { file: Some(shipped.into()), ..TopologySource::default() };
        let of = |retention_ms, policy| {
            let upstream = UpstreamSection { retention_ms, ..UpstreamSection::default() };
            Config { upstream, policy, topology: topology.clone(), ..Config::default() }.validate().join("\n")
        };
        let said = of(60_000, Policy::default());
        assert!(said.contains("upstream.retention_ms is 60000") && said.contains("set it to 0"), "{said}");
        assert_eq!(of(0, Policy::default()), "", "everything is kept");
        let week = UpstreamSection::default().retention_ms;
        assert_eq!(of(week, Policy::default()), "");
        let said = of(week, Policy { max_resends: 1_000, ..Policy::default() });
        assert!(said.contains("upstream.retention_ms is 604800000"), "{said}");
    }

    #[test]
    fn an_empty_file_and_a_short_one_are_read() {
        let none = Vec::<(String, String)>::new();
        let config: Config = countersign_boot::config::load(None, none).unwrap();
        assert_eq!(config.database.url.expose(), "sqlite://upstream.db");
        let environment = vec![("COUNTERSIGN_UPSTREAM__NAME".to_owned(), "shop".to_owned())];
        let config: Config = countersign_boot::config::load(None, environment).unwrap();
        assert_eq!(config.upstream.name.as_str(), "shop");
    }
}
