//! [`Claims`] on Redis: a batch is one pipeline of scripts, and one round trip.

use std::sync::Arc;

use async_trait::async_trait;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::claims::{Claim, Claimed, Claims, Held};
use redis::{Cmd, FromRedisValue, Pipeline, RedisResult};

use crate::config::{Config, Error};
use crate::link::{self, Link};
use crate::scripts::{Scripts, Step};

/// Most scripts in one pipeline; larger batches take several round trips.
const MAX_PIPELINE: usize = 1_000;

/// Claims in Redis. Clones share one connection, which is opened by the first call and after every failure.
#[derive(Clone, Debug)]
pub struct RedisClaims {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) link: Link,
    pub(crate) config: Config,
    scripts: Scripts,
}

impl RedisClaims {
    /// Prepares claims; reaches for nothing, so it does not fail when Redis is away.
    ///
    /// # Errors
    /// [`Error`] when the section is not sound or the address cannot be read.
    pub fn connect(config: &Config) -> Result<Self, Error> {
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(Error::Unsound(problems));
        }
        let link = Link::new(config)?;
        Ok(Self { inner: Arc::new(Inner { link, config: config.clone(), scripts: Scripts::default() }) })
    }

    /// Runs one script for each claim; `times_ms` are its last arguments.
    async fn run<T: FromRedisValue>(&self, step: &Step, claims: &[Claim], times_ms: &[u64]) -> Result<Vec<T>, PortError> {
        let mut answers = Vec::with_capacity(claims.len());
        for chunk in claims.chunks(MAX_PIPELINE) {
            answers.extend(self.run_chunk::<T>(step, chunk, times_ms).await?);
        }
        Ok(answers)
    }

    async fn run_chunk<T: FromRedisValue>(&self, step: &Step, claims: &[Claim], times_ms: &[u64]) -> Result<Vec<T>, PortError> {
        let calls: Vec<Cmd> = claims.iter().map(|claim| self.call(step, claim, times_ms)).collect();
        let answers: Vec<RedisResult<T>> = self.inner.link.send(&pipeline(&calls)).await?;
        if !answers.iter().any(|answer| answer.as_ref().is_err_and(link::is_no_script)) {
            return all(answers);
        }
        self.load(step).await?;
        all(self.inner.link.send(&pipeline(&calls)).await?)
    }

    async fn load(&self, step: &Step) -> Result<(), PortError> {
        let mut load = redis::cmd("SCRIPT");
        load.arg("LOAD").arg(step.text());
        all::<String>(self.inner.link.send(&pipeline(&[load])).await?).map(drop)
    }

    fn call(&self, step: &Step, claim: &Claim, times_ms: &[u64]) -> Cmd {
        let key = &claim.key;
        let fingerprint = key.fingerprint.to_hex();
        let record = format!("{}:{{{}}}:{}", self.inner.config.prefix, key.subscription, key.message_id);
        let mut call = redis::cmd("EVALSHA");
        call.arg(step.hash()).arg(2).arg(format!("{record}:{fingerprint}")).arg(record);
        call.arg(&claim.token).arg(fingerprint).arg(claim.epoch).arg(times_ms);
        call
    }
}

pub(crate) fn pipeline(calls: &[Cmd]) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(calls.len());
    pipeline.ignore_errors();
    for call in calls {
        pipeline.add_command(call.clone());
    }
    pipeline
}

/// All answers, or what went wrong: with none of them given, nothing happened; with some, the batch may be repeated.
pub(crate) fn all<T>(answers: Vec<RedisResult<T>>) -> Result<Vec<T>, PortError> {
    let some_happened = answers.iter().any(Result::is_ok);
    let collected: RedisResult<Vec<T>> = answers.into_iter().collect();
    collected.map_err(|error| if some_happened { link::unknown(error) } else { link::unavailable(error) })
}

fn claimed((word, first, second): (String, u64, u64)) -> Result<Claimed, PortError> {
    let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    match word.as_str() {
        "fresh" => Ok(Claimed::Fresh { starts: number(first) }),
        "interrupted" => Ok(Claimed::Interrupted { starts: number(first), crashes: number(second) }),
        "held" => Ok(Claimed::Held { for_ms: first }),
        "done" => Ok(Claimed::Done),
        "conflict" => Ok(Claimed::Conflict),
        other => Err(link::strange(other)),
    }
}

fn held(answers: Vec<u8>) -> Vec<Held> {
    answers.into_iter().map(|ours| if ours == 1 { Held::Ours } else { Held::Lost }).collect()
}

#[async_trait]
impl Claims for RedisClaims {
    async fn claim(&self, claims: &[Claim], lease_ms: u64) -> Result<Vec<Claimed>, PortError> {
        let times = [lease_ms.max(1), self.inner.config.retention_ms];
        let answers = self.run(&self.inner.scripts.claim, claims, &times).await?;
        answers.into_iter().map(claimed).collect()
    }

    async fn renew(&self, claims: &[Claim], lease_ms: u64) -> Result<Vec<Held>, PortError> {
        let times = [lease_ms.max(1), self.inner.config.retention_ms];
        self.run(&self.inner.scripts.renew, claims, &times).await.map(held)
    }

    async fn complete(&self, claims: &[Claim], retention_ms: u64) -> Result<Vec<Held>, PortError> {
        self.run(&self.inner.scripts.complete, claims, &[retention_ms.max(1)]).await.map(held)
    }

    async fn release(&self, claims: &[Claim]) -> Result<Vec<Held>, PortError> {
        let times = [self.inner.config.retention_ms];
        self.run(&self.inner.scripts.release, claims, &times).await.map(held)
    }
}
