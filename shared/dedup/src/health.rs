//! Whether Redis is there, and whether it can be trusted to remember.

use std::time::Duration;

use countersign_delivery::ports::PortError;
use countersign_telemetry::names;
use redis::{Pipeline, RedisResult, Value, from_redis_value};

use crate::claims::RedisClaims;
use crate::link::{self, Call};
use crate::scripts::Scripts;

/// Between two looks at what Redis does when its memory is full.
const LOOK_AGAIN: Duration = Duration::from_mins(1);
/// What a probe writes lives no longer than this, milliseconds, should its end be lost.
const PROBE_MS: u64 = 1_000;

/// What Redis does when its memory is full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// `maxmemory-policy`, such as `noeviction`.
    pub policy: String,
    /// `maxmemory` in bytes; 0: no limit.
    pub maxmemory_bytes: u64,
}

impl Eviction {
    /// Whether no claim can be evicted before its time: a forgotten one could cost a second effect.
    #[must_use]
    pub fn is_safe(&self) -> bool {
        self.maxmemory_bytes == 0 || self.policy == "noeviction"
    }
}

impl RedisClaims {
    /// Whether the last call was answered; false before the first.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.inner.link.is_up()
    }

    /// Asks Redis whether claims can be made, by writing all that a claim writes under two keys of its own, which are gone again at the
    /// end: the readiness probe. One that only answers may be full, a replica, unable to save, or refuse this account. A record
    /// that has no beginning begins.
    ///
    /// # Errors
    /// [`PortError`] when it does not answer in time or does not take the writes, or is a replica.
    pub async fn ping(&self) -> Result<(), PortError> {
        let Scripts { since, probe, .. } = &self.inner.scripts;
        let key = format!("{}:{{probe}}:probe", self.inner.config.prefix);
        let mut pipeline = Pipeline::new();
        pipeline.ignore_errors().cmd("EVALSHA").arg(probe.hash()).arg(2).arg(&key).arg(format!("{key}:record"));
        pipeline.arg("probe").arg(PROBE_MS);
        // A replica that takes writes loses them when it synchronises. An account that may not ask for it is believed.
        pipeline.cmd("INFO").arg("replication");
        pipeline.add_command(self.since());
        let mut answers = self.answers::<Value>(probe, &[since, probe], &pipeline).await?.into_iter();
        answers.next().unwrap_or(Ok(Value::Nil)).map_err(link::unavailable)?;
        let info = answers.next().and_then(Result::ok).and_then(|info| from_redis_value::<String>(info).ok());
        if info.is_some_and(|info| field(&info, "role").is_some_and(|role| role != "master")) {
            return Err(self.inner.link.demoted().await);
        }
        answers.next().transpose().map_err(link::unavailable)?;
        self.inner.link.proved();
        Ok(())
    }

    /// Returns as soon as Redis takes claims; asks every `retry_pause_ms`.
    pub async fn up(&self) {
        while self.ping().await.is_err() {
            tokio::time::sleep(Duration::from_millis(self.inner.config.server.retry_pause_ms)).await;
        }
    }

    /// Warns, in log and metric, for as long as a full Redis would forget what has been done; looks every minute. Never returns.
    pub async fn warn_of_evictions(&self) {
        let mut told = None;
        loop {
            // One that does not answer now, or an account that may not ask, is asked again.
            if let Ok(eviction) = self.eviction().await {
                let safe = eviction.is_safe();
                metrics::gauge!(names::REDIS_EVICTS).set(if safe { 0.0 } else { 1.0 });
                if !safe && told.as_ref() != Some(&eviction) {
                    tracing::warn!(
                        policy = %eviction.policy,
                        maxmemory_bytes = eviction.maxmemory_bytes,
                        "a full Redis will forget what has been done, and what is sent again will have a second effect: \
                         set maxmemory-policy noeviction"
                    );
                }
                told = Some(eviction);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// What Redis does when its memory is full, for an operator's check-up.
    ///
    /// # Errors
    /// [`PortError`] when it does not answer, or the account may not ask.
    pub async fn eviction(&self) -> Result<Eviction, PortError> {
        let mut pipeline = Pipeline::new();
        pipeline.ignore_errors().cmd("INFO").arg("memory");
        let answers: Vec<RedisResult<String>> = self.inner.link.send(Call::Other, &pipeline).await?;
        let info = answers.into_iter().next().unwrap_or_else(|| Ok(String::new())).map_err(link::unavailable)?;
        eviction_in(&info)
    }
}

/// What `INFO memory` says of it.
pub(crate) fn eviction_in(info: &str) -> Result<Eviction, PortError> {
    let policy = field(info, "maxmemory_policy").ok_or_else(|| link::strange("INFO memory without maxmemory_policy"))?;
    let maxmemory_bytes = field(info, "maxmemory").and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
    Ok(Eviction { policy: policy.to_owned(), maxmemory_bytes })
}

/// One value of an INFO answer.
pub(crate) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_info_field_is_found_by_its_whole_name() {
        let info = "# Memory\r\nmaxmemory_human:0B\r\nmaxmemory:12\r\nmaxmemory_policy:allkeys-lru\r\n";
        assert_eq!(field(info, "maxmemory"), Some("12"));
        assert_eq!(field(info, "maxmemory_policy"), Some("allkeys-lru"));
        assert_eq!(field(info, "role"), None);
    }

    #[test]
    fn only_a_limit_with_eviction_is_unsafe() {
        let eviction = |policy: &str, maxmemory_bytes| Eviction { policy: policy.into(), maxmemory_bytes };
        assert!(eviction("allkeys-lru", 0).is_safe() && eviction("noeviction", 1).is_safe());
        assert!(!eviction("volatile-ttl", 1).is_safe());
    }
}
