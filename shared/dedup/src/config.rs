//! Where Redis is, how long to wait for it, and how long it remembers.

use countersign_boot::Secret;
use countersign_delivery::SubscriptionName;
use serde::{Deserialize, Serialize};

/// The section `[redis]` of a service's configuration. Unknown keys are refused, passwords never shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// `redis://[user:password@]host:port[/db]`, or `rediss://` for TLS. Default `redis://127.0.0.1:6379`.
    pub url: Secret,
    /// How long one connection attempt may take, milliseconds. Default 2 000.
    pub connect_timeout_ms: u64,
    /// How long one batch may wait for its answer, milliseconds. It must be well below the lease. Default 2 000.
    pub response_timeout_ms: u64,
    /// Between two looks for a Redis that is away, milliseconds. Default 500.
    pub retry_pause_ms: u64,
}

impl Default for Server {
    fn default() -> Self {
        Self { url: "redis://127.0.0.1:6379".into(), connect_timeout_ms: 2_000, response_timeout_ms: 2_000, retry_pause_ms: 500 }
    }
}

/// All that claims need: the server, and what the service knows from elsewhere.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where Redis is.
    pub server: Server,
    /// Leads every key: letters, digits, `.`, `-`, `_`. The topology's `prefix`; default `countersign`.
    pub prefix: String,
    /// `dedup_retention_ms`: how long a completed message and a record of starts are remembered, milliseconds. Default 7 days.
    pub retention_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { server: Server::default(), prefix: "countersign".into(), retention_ms: 7 * 24 * 3_600_000 }
    }
}

/// Why no claims can be made with a configuration. Never transient: a Redis that is away is no such error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The figures are not sound.
    #[error("claims cannot be configured: {}", .0.join("; "))]
    Unsound(Vec<String>),
    /// The address cannot be read. The source does not repeat it.
    #[error("redis.url is not a Redis address such as redis://127.0.0.1:6379")]
    Url(#[source] redis::RedisError),
}

impl Error {
    /// Whether trying again later may help: never.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        false
    }
}

impl Server {
    /// What is wrong with these figures, each with its remedy; empty when they are sound.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.url.expose().is_empty() {
            problems.push("redis.url is empty: name a Redis, such as redis://127.0.0.1:6379".into());
        }
        let times = [
            ("redis.connect_timeout_ms", self.connect_timeout_ms),
            ("redis.response_timeout_ms", self.response_timeout_ms),
            ("redis.retry_pause_ms", self.retry_pause_ms),
        ];
        problems.extend(times.iter().filter_map(|(name, value)| out_of_bounds(name, *value)));
        problems
    }
}

impl Config {
    /// What is wrong with these figures, those of the server included; empty when they are sound.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.server.problems();
        if SubscriptionName::new(&self.prefix).is_err() {
            problems.push(format!("prefix {:?} is not valid: use letters, digits, `.`, `-`, `_`", self.prefix));
        }
        problems.extend(out_of_bounds("dedup_retention_ms", self.retention_ms));
        problems
    }
}

fn out_of_bounds(name: &str, value: u64) -> Option<String> {
    (!(1..=MAX_MS).contains(&value)).then(|| format!("{name} is {value}: use 1 to {MAX_MS} ms"))
}

/// Ten years: far inside what Redis takes as an expiry.
const MAX_MS: u64 = 10 * 365 * 24 * 3_600_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_sound_and_keeps_the_password_to_itself() {
        let server = Server { url: "redis://:hush@127.0.0.1:6379".into(), ..Server::default() };
        let config = Config { server, ..Config::default() };
        assert_eq!(config.problems(), Vec::<String>::new());
        assert!(!format!("{config:?}").contains("hush"));
    }

    #[test]
    fn every_problem_is_named() {
        let server = Server { url: "".into(), retry_pause_ms: u64::MAX, ..Server::default() };
        let config = Config { server, prefix: "{a}".into(), retention_ms: 0 };
        let problems = config.problems().join("\n");
        for key in ["redis.url", "redis.retry_pause_ms", "prefix", "dedup_retention_ms"] {
            assert!(problems.contains(key), "{key} is missing in {problems}");
        }
    }
}
