//! The addresses of shared servers, as environment variables.

/// Where the broker takes connections: `amqp://user:password@host:port/vhost`.
pub const AMQP: &str = "COUNTERSIGN_TEST_AMQP";
/// Where the broker's management interface listens, through which virtual hosts are made: `http://user:password@host:port`.
pub const AMQP_ADMIN: &str = "COUNTERSIGN_TEST_AMQP_ADMIN";
/// `redis://host:port`.
pub const REDIS: &str = "COUNTERSIGN_TEST_REDIS";
/// `postgres://user@host:port/database`, whose user may create databases.
pub const POSTGRES: &str = "COUNTERSIGN_TEST_POSTGRES";

/// The addresses that are known; what is missing was not asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exports {
    /// See [`AMQP`].
    pub amqp: Option<String>,
    /// See [`AMQP_ADMIN`].
    pub amqp_admin: Option<String>,
    /// See [`REDIS`].
    pub redis: Option<String>,
    /// See [`POSTGRES`].
    pub postgres: Option<String>,
}

impl Exports {
    /// What this process's environment says.
    #[must_use]
    pub fn from_environment() -> Self {
        Self::from_pairs(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// Reads `NAME=value` lines, as [`Exports::pairs`] gives them; other lines are passed over.
    #[must_use]
    pub fn from_lines(text: &str) -> Self {
        Self::from_pairs(|name| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            value.map(str::to_owned)
        })
    }

    fn from_pairs(value: impl Fn(&str) -> Option<String>) -> Self {
        Self { amqp: value(AMQP), amqp_admin: value(AMQP_ADMIN), redis: value(REDIS), postgres: value(POSTGRES) }
    }

    /// Variable name and value of what is known.
    pub fn pairs(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [(AMQP, &self.amqp), (AMQP_ADMIN, &self.amqp_admin), (REDIS, &self.redis), (POSTGRES, &self.postgres)]
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.as_deref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let exports = Exports {
            amqp: Some("amqp://guest:guest@127.0.0.1:1/%2f".into()),
            amqp_admin: Some("http://guest:guest@127.0.0.1:2".into()),
            redis: None,
            postgres: Some("postgres://countersign@127.0.0.1:3/postgres".into()),
        };
        let lines: Vec<_> = exports.pairs().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(Exports::from_lines(&lines.join("\n")), exports);
    }
}
