//! The records that the guards in use need: Redis, a database, or both. One that is away is waited for by what needs it, and by nothing else.

use std::sync::Arc;
use std::time::Duration;

use countersign_boot::Context;
use countersign_dedup::RedisClaims;
use countersign_delivery::SubscriptionName;
use countersign_delivery::ports::claims::Claims;
use countersign_delivery::topology::Guard;
use countersign_store::{Database, Tables};

use crate::config::Config;
use crate::gate::Gate;
use crate::guard::Handling;
use crate::guard::archived::Archived;
use crate::guard::transaction::Transactions;
use crate::guard::watched::Watched;
use crate::handler::AnyHandler;
use crate::pause::Watch;
use crate::{reopen, retention};

/// What readiness and logs call them.
const REDIS: &str = "redis";
const DATABASE: &str = "database";
const PAUSES: &str = "pauses";
/// Messages that are claimed for each transaction that may be open: while one is signed for, the next is handled.
const CLAIMED_PER_TRANSACTION: u32 = 2;
/// Between two looks at a database.
const LOOK: Duration = Duration::from_secs(1);

/// A server in which it is remembered what is done, with its gate.
#[derive(Clone)]
pub struct Record<R> {
    /// Its adapter.
    pub adapter: R,
    /// Whether it can be used.
    pub gate: Gate,
}

/// What is there so far. None of what no guard needs.
#[derive(Clone, Default)]
pub struct Records {
    /// Claims.
    pub redis: Option<Record<RedisClaims>>,
    /// Rows of what is done, and the handlers' transactions.
    pub database: Option<Record<Database>>,
}

/// What one guard stands on.
pub struct Ground {
    /// Where claims are made.
    pub claims: Arc<dyn Claims>,
    /// Open while all that it needs can be used.
    pub gate: Gate,
}

impl Records {
    /// Redis, which need not be there yet.
    ///
    /// # Errors
    /// [`countersign_dedup::Error`] when its section cannot be used.
    pub fn with_redis(mut self, context: &Context, config: &Config, prefix: &str) -> Result<Self, countersign_dedup::Error> {
        let adapter = RedisClaims::connect(&config.claims(prefix))?;
        let gate = Gate::new(REDIS, context.health.dependency(REDIS));
        watch_redis(context, adapter.clone(), gate.clone(), Duration::from_millis(config.redis.retry_pause_ms));
        self.redis = Some(Record { adapter, gate });
        Ok(self)
    }

    /// Looks at what operators have paused of these subscriptions, until soft stop. Pauses are kept in Redis, with the claims.
    pub fn watch_pauses(&self, context: &Context, names: &[SubscriptionName], pause: Duration) -> Watch {
        let Some(redis) = &self.redis else { return Watch::nothing() };
        let mut watch = Watch::new(Arc::new(redis.adapter.clone()));
        for name in names {
            watch.over(name);
        }
        let looking = watch.clone().run(pause, context.health.dependency(PAUSES));
        drop(context.tasks.spawn("look at pauses", context.stop.soft_token().run_until_cancelled_owned(looking)));
        watch
    }

    /// The database with its tables up to date; waits while it is away.
    ///
    /// # Errors
    /// [`countersign_store::Error`] when waiting will not help.
    pub async fn with_database(mut self, context: &Context, config: &Config) -> Result<Self, countersign_store::Error> {
        let shown = context.health.dependency(DATABASE);
        let database = Database::open(&config.database, Tables::Inbox, &shown).await?;
        let gate = Gate::new(DATABASE, shown);
        gate.open();
        watch_database(context, database.clone(), gate.clone());
        self.database = Some(Record { adapter: database, gate });
        Ok(self)
    }

    /// Forgets what is old of these subscriptions, until soft stop.
    pub fn start_forgetting(&self, context: &Context, subscriptions: Vec<SubscriptionName>, retention_ms: u64) {
        if let Some(database) = &self.database {
            retention::start(context, database.adapter.inbox(), subscriptions, retention_ms);
        }
    }

    /// What this guard stands on; none: a record that it needs is not among these.
    pub fn ground(&self, guard: Guard, retention_ms: u64) -> Option<Ground> {
        let redis = || self.redis.as_ref().map(|redis| Watched::new(redis.adapter.clone(), redis.gate.clone()));
        let inbox = || self.database.as_ref().map(|database| Watched::new(database.adapter.inbox(), database.gate.clone()));
        let claims: Arc<dyn Claims> = match guard {
            Guard::Redis | Guard::Tiered => Arc::new(redis()?),
            Guard::Inbox => Arc::new(inbox()?),
            Guard::RedisArchive => Arc::new(Archived::new(redis()?, inbox()?, retention_ms)),
        };
        let mut gates = Vec::new();
        if guard.uses_redis() {
            gates.push(self.redis.as_ref()?.gate.clone());
        }
        if guard.uses_database() {
            gates.push(self.database.as_ref()?.gate.clone());
        }
        Some(Ground { claims, gate: Gate::all(gates) })
    }
}

impl Records {
    /// How a handler is called under this guard; none: it does not fit, or the database is not there.
    pub fn handling(&self, guard: Guard, handler: AnyHandler, timeout_ms: u64) -> Option<Handling> {
        match handler {
            _ if !handler.fits(guard) => None,
            AnyHandler::Direct(handler) => Some(Handling::Direct(handler)),
            AnyHandler::InTransaction(handler) => {
                let Record { adapter, gate } = self.database.clone()?;
                Some(Handling::InTransaction(handler, Transactions::new(adapter, gate, timeout_ms)))
            }
        }
    }

    /// So many messages are handled at a time: within transactions not many more than the database takes, for one that waits for its turn
    /// is claimed already.
    pub fn concurrency(&self, guard: Guard, wanted: u32) -> u32 {
        match &self.database {
            Some(Record { adapter, .. }) if guard.in_transaction() => {
                let at_a_time = u32::try_from(adapter.inbox().at_a_time()).unwrap_or(u32::MAX);
                wanted.min(at_a_time.saturating_mul(CLAIMED_PER_TRANSACTION))
            }
            _ => wanted,
        }
    }
}

/// Opens the gate while Redis takes claims; closes it when it is found away although nobody made one.
fn watch_redis(context: &Context, claims: RedisClaims, gate: Gate, pause: Duration) {
    let warning = claims.clone();
    let ping = move || {
        let claims = claims.clone();
        async move { claims.ping().await }
    };
    let watching = async move {
        tokio::select! {
            () = reopen::watch(ping, gate, pause) => {}
            () = warning.warn_of_evictions() => {}
        }
    };
    drop(context.tasks.spawn("watch Redis", context.stop.soft_token().run_until_cancelled_owned(watching)));
}

/// The same for the database.
fn watch_database(context: &Context, database: Database, gate: Gate) {
    let ping = move || {
        let database = database.clone();
        async move { database.ping().await }
    };
    let watching = reopen::watch(ping, gate, LOOK);
    drop(context.tasks.spawn("watch the database", context.stop.soft_token().run_until_cancelled_owned(watching)));
}
