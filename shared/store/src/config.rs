//! Where the database is, and how long to wait for it.

use countersign_boot::Secret;
use serde::{Deserialize, Serialize};

/// The section `[database]` of a service's configuration. Unknown keys are refused, passwords never shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `sqlite:<path>` (the file is made when it is missing) or `postgres://user:password@host:port/name`. Default
    /// `sqlite:countersign.db`; services that have a database name a file of their own.
    pub url: Secret,
    /// Connections at most. SQLite: for reading; there is always one more, the only one that writes. Default 8.
    pub max_connections: u32,
    /// How long to wait for a connection, new or from the pool, milliseconds. Default 5 000.
    pub connect_timeout_ms: u64,
    /// How long one statement may run, waits for locks included, milliseconds. Default 10 000.
    pub statement_timeout_ms: u64,
    /// How long one statement may wait for a lock, milliseconds. Default 5 000.
    pub lock_timeout_ms: u64,
    /// Whether the service brings its tables up to date at its start. Default true. With false it needs no right to create or alter tables:
    /// it waits, unready, until `--migrate` has been run by someone who may.
    pub migrate: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: "sqlite:countersign.db".into(),
            max_connections: 8,
            connect_timeout_ms: 5_000,
            statement_timeout_ms: 10_000,
            lock_timeout_ms: 5_000,
            migrate: true,
        }
    }
}

impl Config {
    /// What is wrong with these figures, each with its remedy; empty when they are sound.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if crate::database::Kind::of(self.url.expose()).is_none() {
            problems.push("database.url is neither sqlite:<path> nor postgres://…: name one of the two".to_owned());
        }
        let positive = [
            ("max_connections", u64::from(self.max_connections)),
            ("connect_timeout_ms", self.connect_timeout_ms),
            ("statement_timeout_ms", self.statement_timeout_ms),
            ("lock_timeout_ms", self.lock_timeout_ms),
        ];
        for (name, value) in positive {
            if value == 0 {
                problems.push(format!("database.{name} is 0: set it to at least 1"));
            }
        }
        if self.lock_timeout_ms > self.statement_timeout_ms {
            problems.push(
                "database.lock_timeout_ms is above statement_timeout_ms, which would end the wait first: lower it".to_owned(),
            );
        }
        problems
    }
}

impl From<&str> for Config {
    fn from(url: &str) -> Self {
        Self { url: url.into(), ..Self::default() }
    }
}

impl From<&Self> for Config {
    fn from(config: &Self) -> Self {
        config.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound_and_the_password_is_not_shown() {
        assert_eq!(Config::default().problems(), Vec::<String>::new());
        let config = Config::from("postgres://me:secret@127.0.0.1/orders");
        assert_eq!(config.problems(), Vec::<String>::new());
        assert!(!format!("{config:?}").contains("secret"));
    }

    #[test]
    fn each_wrong_figure_is_named() {
        let config = Config { max_connections: 0, lock_timeout_ms: 20_000, ..Config::from("mysql://127.0.0.1/orders") };
        let problems = config.problems().join("\n");
        for word in ["url", "max_connections", "lock_timeout_ms"] {
            assert!(problems.contains(word), "{word} is missing in {problems}");
        }
    }
}
