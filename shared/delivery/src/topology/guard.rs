//! What makes the effect of a message happen once.

use serde::{Deserialize, Serialize};

/// Where a subscription remembers what it has done.
///
/// | guard | claimed in | remembered in | the handler runs in its transaction |
/// |---|---|---|---|
/// | `redis` | Redis | Redis | no |
/// | `inbox` | nothing | database | yes |
/// | `tiered` | Redis | database, and Redis in front | yes |
/// | `redis+archive` | Redis | Redis, and database behind | no |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Guard {
    /// The mark in Redis follows the effect.
    #[default]
    #[serde(rename = "redis")]
    Redis,
    /// The mark is a row in the handler's own transaction.
    #[serde(rename = "inbox")]
    Inbox,
    /// As [`Self::Inbox`], with Redis in front as lock and cache.
    #[serde(rename = "tiered")]
    Tiered,
    /// As [`Self::Redis`], and what is done is written to a database before it is signed for.
    #[serde(rename = "redis+archive")]
    RedisArchive,
}

impl Guard {
    /// Every guard, for tables and tests.
    pub const ALL: [Self; 4] = [Self::Redis, Self::Inbox, Self::Tiered, Self::RedisArchive];

    /// The word used in the topology file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Inbox => "inbox",
            Self::Tiered => "tiered",
            Self::RedisArchive => "redis+archive",
        }
    }

    /// Whether the handler runs within the transaction that marks the message as done: then a start that never ended has had no effect.
    #[must_use]
    pub const fn in_transaction(self) -> bool {
        matches!(self, Self::Inbox | Self::Tiered)
    }

    /// Whether messages are claimed in Redis.
    #[must_use]
    pub const fn uses_redis(self) -> bool {
        !matches!(self, Self::Inbox)
    }

    /// Whether what is done is remembered in a database.
    #[must_use]
    pub const fn uses_database(self) -> bool {
        !matches!(self, Self::Redis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_is_written_as_it_is_called() {
        for guard in Guard::ALL {
            assert_eq!(serde_json::to_value(guard).unwrap(), guard.as_str());
        }
    }
}
