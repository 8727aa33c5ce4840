//! What an operator's check-up asks of Redis.

use std::collections::BTreeMap;

use countersign_delivery::ports::PortError;
use redis::{Pipeline, RedisResult, Value, from_redis_value};

use crate::claims::RedisClaims;
use crate::health::{Eviction, eviction_in, field};
use crate::link::{self, Call};

/// How a Redis stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Such as `7.0.15`; empty when it does not say.
    pub version: String,
    /// `master`, or `slave` for a replica that takes no writes; empty when it does not say.
    pub role: String,
    /// What it does when its memory is full.
    pub eviction: Eviction,
    /// Memory in use, bytes.
    pub used_memory_bytes: u64,
    /// What survives a restart.
    pub persistence: Persistence,
    /// Its own clock, milliseconds since 1970.
    pub now_ms: i64,
}

/// What of the data survives a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Persistence {
    /// An append-only file is kept.
    pub append_only: bool,
    /// The rule for snapshots (`save`); empty: none is taken. None when the account may not ask.
    pub snapshots: Option<String>,
    /// The last write of either failed.
    pub failing: bool,
}

impl RedisClaims {
    /// How Redis stands, in one round trip; nothing is written.
    ///
    /// # Errors
    /// [`PortError`] when it does not answer in time, or the account may ask neither `INFO` nor `TIME`.
    pub async fn standing(&self) -> Result<Standing, PortError> {
        let mut pipeline = Pipeline::new();
        pipeline.ignore_errors();
        pipeline.cmd("TIME");
        for section in ["server", "replication", "memory", "persistence"] {
            pipeline.cmd("INFO").arg(section);
        }
        pipeline.cmd("CONFIG").arg("GET").arg("save");
        let mut answers = self.inner.link.send::<Value>(Call::Other, &pipeline).await?.into_iter();
        let mut next = || answers.next().unwrap_or(Ok(Value::Nil));
        let now_ms = time(next()).map_err(link::unavailable)?;
        let mut text = || next().and_then(|answer| Ok(from_redis_value::<String>(answer)?)).map_err(link::unavailable);
        let (server, replication, memory, persistence) = (text()?, text()?, text()?, text()?);
        let snapshots = next().ok().and_then(|answer| from_redis_value::<BTreeMap<String, String>>(answer).ok());
        let plain = |info: &str, name: &str| field(info, name).unwrap_or_default().to_owned();
        Ok(Standing {
            version: plain(&server, "redis_version"),
            role: plain(&replication, "role"),
            eviction: eviction_in(&memory)?,
            used_memory_bytes: field(&memory, "used_memory").and_then(|bytes| bytes.parse().ok()).unwrap_or(0),
            persistence: Persistence {
                append_only: field(&persistence, "aof_enabled") == Some("1"),
                snapshots: snapshots.and_then(|settings| settings.get("save").cloned()),
                failing: ["aof_last_write_status", "rdb_last_bgsave_status"]
                    .iter()
                    .any(|name| field(&persistence, name).is_some_and(|status| status != "ok")),
            },
            now_ms,
        })
    }
}

/// `TIME` answers seconds and microseconds.
fn time(answer: RedisResult<Value>) -> RedisResult<i64> {
    let (seconds, micros): (i64, i64) = from_redis_value(answer?)?;
    Ok(seconds.saturating_mul(1_000).saturating_add(micros / 1_000))
}
