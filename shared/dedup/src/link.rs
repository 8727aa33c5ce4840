//! One connection to Redis, opened when it is needed and thrown away at the first sign of trouble.
//!
//! The client library's own reconnecting connection stays on a primary that was demoted; so any failure, a read-only answer
//! included, ends the connection here, and the next call resolves the address anew.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use countersign_delivery::ports::PortError;
use countersign_telemetry::{at_zero, names};
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, FromRedisValue, IntoConnectionInfo as _, Pipeline, RedisError, RedisResult,
    ServerErrorKind,
};
use tokio::sync::Mutex;

use crate::config::{Config, Error};
use crate::reason;

const WHAT: &str = "redis";

/// What a round trip is made for, in the words of its metric.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Call {
    Claim,
    Renew,
    Complete,
    Release,
    /// Health, check-ups, and loading scripts.
    Other,
}

impl Call {
    /// Every word of [`Self::word`].
    const WORDS: [&str; 5] = ["claim", "renew", "complete", "release", "other"];

    const fn word(self) -> &'static str {
        match self {
            Self::Claim => Self::WORDS[0],
            Self::Renew => Self::WORDS[1],
            Self::Complete => Self::WORDS[2],
            Self::Release => Self::WORDS[3],
            Self::Other => Self::WORDS[4],
        }
    }
}

#[derive(Debug)]
pub(crate) struct Link {
    client: Client,
    connect_timeout: Duration,
    response_timeout: Duration,
    slot: Mutex<Slot>,
    /// Connection attempts that failed so far: who waited while one failed need not try again.
    failures: AtomicU64,
    up: AtomicBool,
    /// Since claims were last proved possible a call has failed, and that was counted.
    away: AtomicBool,
}

#[derive(Default)]
struct Slot {
    generation: u64,
    connection: Option<MultiplexedConnection>,
    /// Why the last attempt to connect failed.
    failure: Option<String>,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Slot");
        shown.field("generation", &self.generation).field("open", &self.connection.is_some()).field("failure", &self.failure);
        shown.finish()
    }
}

/// A pipeline that failed as a whole.
struct Failure {
    error: RedisError,
    /// Whether the connection went before or while it was sent, so that a new one may be tried at once.
    dropped: bool,
}

/// What is written is whole: nothing is gained by waiting for more.
fn client(url: &str) -> RedisResult<Client> {
    let settings = TcpSettings::default().set_nodelay(true);
    Client::open(url.into_connection_info()?.set_tcp_settings(settings))
}

impl Link {
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        let server = &config.server;
        at_zero(names::REDIS_ROUND_TRIPS_TOTAL, &[("call", &Call::WORDS)]);
        at_zero(names::CLAIMS_AWAY_TOTAL, &[("reason", &reason::ALL)]);
        Ok(Self {
            client: client(server.url.expose()).map_err(Error::Url)?,
            connect_timeout: Duration::from_millis(server.connect_timeout_ms),
            response_timeout: Duration::from_millis(server.response_timeout_ms),
            slot: Mutex::default(),
            failures: AtomicU64::new(0),
            up: AtomicBool::new(false),
            away: AtomicBool::new(false),
        })
    }

    /// Whether the last call was answered as it should be.
    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Sends a pipeline in one round trip; answers in order. A connection that had gone unnoticed is replaced once, which is
    /// right only because every pipeline sent here may be repeated.
    pub(crate) async fn send<T: FromRedisValue>(
        &self,
        call: Call,
        pipeline: &Pipeline,
    ) -> Result<Vec<RedisResult<T>>, PortError> {
        match self.send_once(call, pipeline).await? {
            Ok(answers) => Ok(answers),
            Err(Failure { dropped: true, .. }) => self.send_once(call, pipeline).await?.map_err(|failure| {
                self.count(reason::of(&failure.error));
                unknown(failure.error)
            }),
            Err(failure) => Err(unknown(failure.error)),
        }
    }

    async fn send_once<T: FromRedisValue>(
        &self,
        call: Call,
        pipeline: &Pipeline,
    ) -> Result<Result<Vec<RedisResult<T>>, Failure>, PortError> {
        let (generation, mut connection) = self.connection().await?;
        metrics::counter!(names::REDIS_ROUND_TRIPS_TOTAL, "call" => call.word()).increment(1);
        let answered: RedisResult<Vec<RedisResult<T>>> = pipeline.query_async(&mut connection).await;
        match answered {
            Ok(answers) => {
                let mut errors = answers.iter().filter_map(|answer| answer.as_ref().err());
                let trouble = errors.find(|error| !is_no_script(error) && !reason::is_info_denied(error));
                self.up.store(trouble.is_none(), Ordering::Relaxed);
                if let Some(error) = trouble {
                    self.count(reason::of(error));
                    self.discard(generation).await;
                }
                Ok(Ok(answers))
            }
            Err(error) => {
                self.discard(generation).await;
                let dropped = error.is_connection_dropped() && !error.is_timeout();
                // One that was dropped is tried again on a new connection; that tells whether Redis is away.
                if !dropped {
                    self.count(reason::of(&error));
                }
                Ok(Err(Failure { error, dropped }))
            }
        }
    }

    async fn connection(&self) -> Result<(u64, MultiplexedConnection), PortError> {
        let failures_before = self.failures.load(Ordering::Acquire);
        let mut slot = self.slot.lock().await;
        if let Some(connection) = &slot.connection {
            return Ok((slot.generation, connection.clone()));
        }
        if self.failures.load(Ordering::Acquire) != failures_before {
            // The attempt that this call waited for.
            return Err(PortError::Unavailable(WHAT, slot.failure.clone().unwrap_or_default().into()));
        }
        let opened = tokio::time::timeout(self.connect_timeout, self.open()).await;
        let opened = opened.unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()));
        match opened {
            Ok(connection) => {
                slot.generation += 1;
                slot.connection = Some(connection.clone());
                tracing::info!(generation = slot.generation, "connected to Redis");
                Ok((slot.generation, connection))
            }
            Err(error) => {
                self.failures.fetch_add(1, Ordering::AcqRel);
                slot.failure = Some(error.to_string());
                self.up.store(false, Ordering::Relaxed);
                self.count(reason::of(&error));
                tracing::debug!(%error, "Redis cannot be reached");
                Err(PortError::Unavailable(WHAT, Box::new(error)))
            }
        }
    }

    async fn open(&self) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(Some(self.response_timeout));
        self.client.get_multiplexed_async_connection_with_config(&config).await
    }

    /// A replica: it answers, but takes no claim. The address may name another server by the next call.
    pub(crate) async fn demoted(&self) -> PortError {
        let generation = self.slot.lock().await.generation;
        self.count("readonly");
        self.discard(generation).await;
        PortError::Unavailable(WHAT, "it is a read-only replica".into())
    }

    /// Claims are possible: the next failure is a new one.
    pub(crate) fn proved(&self) {
        self.away.store(false, Ordering::Relaxed);
    }

    /// Counts the first failure after claims were possible, or after the start.
    fn count(&self, reason: &'static str) {
        if !self.away.swap(true, Ordering::Relaxed) {
            metrics::counter!(names::CLAIMS_AWAY_TOTAL, "reason" => reason).increment(1);
        }
    }

    /// Throws the connection away, unless another call has done so before.
    async fn discard(&self, generation: u64) {
        let mut slot = self.slot.lock().await;
        if slot.generation == generation && slot.connection.take().is_some() {
            self.up.store(false, Ordering::Relaxed);
            tracing::warn!(generation, "the connection to Redis was given up");
        }
    }
}

/// Redis has lost its script cache (restart, failover), or never had the script.
pub(crate) fn is_no_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// A script was ended by an error after a part of its batch (`scripts/batch.lua`).
pub(crate) fn is_partly(error: &RedisError) -> bool {
    error.code() == Some(reason::PARTLY)
}

pub(crate) fn unavailable(error: RedisError) -> PortError {
    PortError::Unavailable(WHAT, Box::new(error))
}

pub(crate) fn unknown(error: RedisError) -> PortError {
    PortError::OutcomeUnknown(WHAT, Box::new(error))
}

/// An answer that none of our scripts gives.
pub(crate) fn strange(answer: &str) -> PortError {
    PortError::OutcomeUnknown(WHAT, format!("unexpected answer {answer:?}").into())
}
