//! [`Claims`] on Redis: a batch is one script, or a few in one pipeline, and one round trip.

use std::sync::Arc;

use async_trait::async_trait;
use countersign_delivery::Timestamp;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::claims::{Claim, Claimed, Claims, Held};
use redis::{Cmd, FromRedisValue, Pipeline, RedisResult};

use crate::config::{Config, Error};
use crate::link::{self, Call, Link};
use crate::scripts::{Scripts, Step};

/// Most claims of one round trip.
const MAX_PIPELINE: usize = 1_000;
/// Most claims of one script: Redis does nothing else meanwhile, about two milliseconds.
const MAX_SCRIPT: usize = 256;

/// Claims in Redis. Clones share one connection, which is opened by the first call and after every failure.
#[derive(Clone, Debug)]
pub struct RedisClaims {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) link: Link,
    pub(crate) config: Config,
    pub(crate) scripts: Scripts,
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

    /// Takes the step with each claim; `times_ms` are its last arguments.
    async fn run(&self, step: &Step, claims: &[Claim], times_ms: &[u64]) -> Result<Vec<Held>, PortError> {
        let mut answers = Vec::with_capacity(claims.len());
        for chunk in claims.chunks(MAX_PIPELINE) {
            let calls = pipeline(self.calls(step, chunk, times_ms));
            for batch in all(self.answers::<String>(step, &[step], &calls).await?)? {
                answers.extend(batch.split(',').map(held));
            }
        }
        Ok(answers)
    }

    /// Claims these, and asks along with it since when the record goes back.
    async fn claim_chunk(&self, claims: &[Claim], times_ms: &[u64]) -> Result<Vec<Claimed>, PortError> {
        let Scripts { since, claim: step, .. } = &self.inner.scripts;
        let calls = pipeline([self.since()].into_iter().chain(self.calls(step, claims, times_ms)));
        let mut answers = self.answers::<String>(step, &[since, step], &calls).await?.into_iter();
        let since = answers.next();
        // The claims come first: with none of them made, nothing happened.
        let answers = all(answers.collect())?;
        let since = since.transpose().map_err(link::unknown)?.and_then(|since| since.parse().ok());
        let since = since.ok_or_else(|| link::strange("no beginning of the record"))?;
        let answers = answers.iter().flat_map(|batch| batch.split(',')).zip(claims);
        answers.map(|(answer, claim)| Ok(unless_forgotten(claimed(answer)?, claim, since))).collect()
    }

    /// Asks since when the record goes back; it begins now if it has no beginning.
    pub(crate) fn since(&self) -> Cmd {
        let mut asking = redis::cmd("EVALSHA");
        asking.arg(self.inner.scripts.since.hash()).arg(1).arg(format!("{}:since", self.inner.config.prefix));
        asking
    }

    /// Sends calls of these scripts, again if Redis did not know one of them; counted as calls of `step`.
    pub(crate) async fn answers<T: FromRedisValue>(
        &self,
        step: &Step,
        scripts: &[&Step],
        calls: &Pipeline,
    ) -> Result<Vec<RedisResult<T>>, PortError> {
        let answers = self.inner.link.send(step.call(), calls).await?;
        if !answers.iter().any(|answer: &RedisResult<T>| answer.as_ref().is_err_and(link::is_no_script)) {
            return Ok(answers);
        }
        for script in scripts {
            self.load(script).await?;
        }
        self.inner.link.send(step.call(), calls).await
    }

    async fn load(&self, step: &Step) -> Result<(), PortError> {
        let mut load = redis::cmd("SCRIPT");
        load.arg("LOAD").arg(step.text());
        all::<String>(self.inner.link.send(Call::Other, &pipeline([load])).await?).map(drop)
    }

    /// One call for neighbours of one subscription, whose keys are on one server: its name is what they are hashed by.
    fn calls(&self, step: &Step, claims: &[Claim], times_ms: &[u64]) -> impl Iterator<Item = Cmd> {
        let neighbours = claims.chunk_by(|one, next| one.key.subscription == next.key.subscription);
        neighbours.flat_map(|same| same.chunks(MAX_SCRIPT)).map(move |batch| self.call(step, batch, times_ms))
    }

    fn call(&self, step: &Step, batch: &[Claim], times_ms: &[u64]) -> Cmd {
        let (mut keys, mut arguments) = (Vec::with_capacity(batch.len() * 2), Vec::with_capacity(batch.len()));
        // Keys are put together without the formatting machinery: of all that is done here, this is done most often.
        let mut uuid = uuid::Uuid::encode_buffer();
        for Claim { key, token, epoch, .. } in batch {
            let fingerprint = key.fingerprint.to_hex();
            let id = &*key.message_id.uuid().hyphenated().encode_lower(&mut uuid);
            let record = [&self.inner.config.prefix, ":{", key.subscription.as_str(), "}:", id].concat();
            let before = keys.len();
            match key.effect_epoch {
                0 => keys.extend([[&record, ":", &fingerprint].concat(), record]),
                // No fingerprint reads "effect", so no claim key is another's record.
                further => {
                    keys.extend([format!("{record}:{fingerprint}:{further}"), format!("{record}:effect:{further}"), record]);
                }
            }
            arguments.push((keys.len() - before, token, fingerprint, epoch));
        }
        let mut call = redis::cmd("EVALSHA");
        call.arg(step.hash()).arg(keys.len()).arg(keys).arg(times_ms.len()).arg(times_ms);
        for (count, token, fingerprint, epoch) in arguments {
            call.arg(count).arg(token).arg(fingerprint).arg(epoch);
        }
        call
    }
}

pub(crate) fn pipeline(calls: impl IntoIterator<Item = Cmd>) -> Pipeline {
    let mut pipeline = Pipeline::new();
    pipeline.ignore_errors();
    for call in calls {
        pipeline.add_command(call);
    }
    pipeline
}

/// All answers, or what went wrong: with none of them given, nothing happened; with some, the batch may be repeated.
pub(crate) fn all<T>(answers: Vec<RedisResult<T>>) -> Result<Vec<T>, PortError> {
    let happened = |answer: &RedisResult<T>| answer.as_ref().map_or_else(link::is_partly, |_| true);
    let some_happened = answers.iter().any(happened);
    let collected: RedisResult<Vec<T>> = answers.into_iter().collect();
    collected.map_err(|error| if some_happened { link::unknown(error) } else { link::unavailable(error) })
}

/// Nothing on record proves nothing when the record is younger than the message.
fn unless_forgotten(claimed: Claimed, claim: &Claim, since_ms: u64) -> Claimed {
    let since = Timestamp::from_millis(i64::try_from(since_ms).unwrap_or(i64::MAX));
    match claimed {
        Claimed::Fresh { starts } if claim.again && claim.key.message_id.minted_at() < since => Claimed::Forgotten { starts },
        known => known,
    }
}

/// A word and two numbers.
fn claimed(answer: &str) -> Result<Claimed, PortError> {
    let mut parts = answer.split(' ');
    let word = parts.next();
    let mut number = || parts.next().and_then(|number| number.parse().ok());
    let (Some(first), Some(second)) = (number(), number()) else { return Err(link::strange(answer)) };
    let count = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    match word {
        Some("fresh") => Ok(Claimed::Fresh { starts: count(first) }),
        Some("interrupted") => Ok(Claimed::Interrupted { starts: count(first), crashes: count(second) }),
        Some("held") => Ok(Claimed::Held { for_ms: first }),
        Some("done") => Ok(Claimed::Done),
        Some("conflict") => Ok(Claimed::Conflict),
        _ => Err(link::strange(answer)),
    }
}

fn held(answer: &str) -> Held {
    if answer == "1" { Held::Ours } else { Held::Lost }
}

#[async_trait]
impl Claims for RedisClaims {
    async fn claim(&self, claims: &[Claim], lease_ms: u64) -> Result<Vec<Claimed>, PortError> {
        let times = [lease_ms.max(1), self.inner.config.retention_ms];
        let mut answers = Vec::with_capacity(claims.len());
        for chunk in claims.chunks(MAX_PIPELINE) {
            answers.extend(self.claim_chunk(chunk, &times).await?);
        }
        Ok(answers)
    }

    async fn renew(&self, claims: &[Claim], lease_ms: u64) -> Result<Vec<Held>, PortError> {
        let times = [lease_ms.max(1), self.inner.config.retention_ms];
        self.run(&self.inner.scripts.renew, claims, &times).await
    }

    async fn complete(&self, claims: &[Claim], retention_ms: u64) -> Result<Vec<Held>, PortError> {
        self.run(&self.inner.scripts.complete, claims, &[retention_ms.max(1)]).await
    }

    async fn release(&self, claims: &[Claim]) -> Result<Vec<Held>, PortError> {
        let times = [self.inner.config.retention_ms];
        self.run(&self.inner.scripts.release, claims, &times).await
    }
}
