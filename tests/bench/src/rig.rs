//! The three services of one round, on a corner of the servers that nobody has used.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_delivery::topology::Guard;
use countersign_launcher::{Extras, Postgres, System, Which, Wiring, wait_until};

use crate::options::Options;
use crate::process;
use crate::servers::Servers;
use crate::tally::Tally;

/// From the publish to the check, milliseconds.
pub(crate) const CHECK_DELAY_MS: u64 = 5_000;
/// For all messages of a round.
const ALL: Duration = Duration::from_mins(20);
/// As many messages on their way as the broker client can take, and a handler for each batch.
const DOWNSTREAM: &str = "concurrency = 256\nprefetch = 1000";
const CHECKS: &str = "countersign_checks_total";
const RECEIPTS: &str = "countersign_receipts_total";

/// What differs between scenarios.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// Downstream, or a program that embeds it and has the handler in it.
    pub downstream: &'static str,
    /// More configuration.
    pub extras: Extras,
}

impl Shape {
    /// The compiled handler that counts.
    pub(crate) fn in_process() -> Self {
        Self { downstream: "bench-handler", extras: Extras { downstream: DOWNSTREAM.into(), ..Extras::default() } }
    }
}

/// Where tables are, and what else is the same for a whole installation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grounds<'a> {
    /// Upstream's tables and MSG DB are files of `SQLite`.
    pub sqlite: bool,
    /// MSG DB is on this server instead of the one of all others.
    pub msg_db: Option<&'a Postgres>,
    /// Of the one subscription. With one that needs a database, downstream gets one of `PostgreSQL`.
    pub guard: Guard,
    /// From the publish to the check, milliseconds.
    pub check_delay_ms: u64,
}

impl Default for Grounds<'_> {
    fn default() -> Self {
        Self { sqlite: false, msg_db: None, guard: Guard::default(), check_delay_ms: CHECK_DELAY_MS }
    }
}

impl Grounds<'_> {
    /// With the delay of checks that was asked for.
    pub(crate) fn of(options: &Options) -> Self {
        Self { check_delay_ms: options.check_delay_ms, ..Self::default() }
    }
}

/// The running services.
pub(crate) struct Rig {
    pub system: System,
    pub amqp: String,
    /// Of the broker.
    pub vhost: String,
    /// The addresses of upstream's tables and of MSG DB.
    pub upstream_database: String,
    pub msg_db: String,
    /// From the publish to the check, milliseconds.
    pub check_delay_ms: u64,
    /// Messages of all passes so far.
    pub sent: u32,
    dir: PathBuf,
    cpu: [Duration; 3],
}

impl Rig {
    /// Takes a fresh virtual host, fresh databases and an empty Redis, and starts all three services.
    pub(crate) async fn start(servers: &Servers, shape: &Shape) -> anyhow::Result<Self> {
        Self::start_on(servers, shape, Grounds::default()).await
    }

    /// As [`Self::start`], on other grounds.
    pub(crate) async fn start_on(servers: &Servers, shape: &Shape, grounds: Grounds<'_>) -> anyhow::Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let vhost = format!("bench{}", COUNTER.fetch_add(1, Ordering::Relaxed));
        let dir = servers.dir.path().join(&vhost);
        std::fs::create_dir(&dir)?;
        servers.rabbitmq.create_vhost(&vhost).await?;
        servers.redis.command("FLUSHALL").await?;
        let amqp = servers.rabbitmq.amqp_url(&vhost);
        let [upstream_database, msg_db] = if grounds.sqlite {
            ["upstream", "msg"].map(|name| format!("sqlite://{}?mode=rwc", dir.join(format!("{name}.db")).display()))
        } else {
            let of_callback = grounds.msg_db.unwrap_or(&servers.postgres);
            let upstream = servers.postgres.create_database(&format!("{vhost}_up")).await?;
            [upstream, of_callback.create_database(&format!("{vhost}_msg")).await?]
        };
        let wiring = Wiring {
            dir: dir.clone(),
            amqp: amqp.clone(),
            redis: servers.redis.url(),
            upstream_database: upstream_database.clone(),
            callback_database: msg_db.clone(),
            max_batch: 256,
            check_delay_ms: grounds.check_delay_ms,
            handler_mode: "count",
            otlp: None,
        };
        let mut extras = shape.extras.clone();
        extras.subscription = format!("guard = \"{}\"\n{}", grounds.guard.as_str(), extras.subscription);
        let system = System::prepare_with(wiring, extras).await?;
        if shape.downstream != Which::Downstream.binary() {
            system.handled_in_process()?;
        }
        let check_delay_ms = grounds.check_delay_ms;
        let cpu = [Duration::ZERO; 3];
        let mut rig = Self { system, amqp, vhost, upstream_database, msg_db, check_delay_ms, sent: 0, dir, cpu };
        if grounds.guard.uses_database() {
            let database = servers.postgres.create_database(&rig.downstream_database()).await?;
            rig.rewrite(Which::Downstream, |text| format!("[database]\nurl = {database:?}\n\n{text}"))?;
        }
        rig.system.start(Which::Callback, "").await?;
        rig.system.spawn_as(Which::Downstream, shape.downstream, "")?;
        rig.system.ready(Which::Downstream).await?;
        rig.system.start(Which::Upstream, "").await?;
        Ok(rig)
    }

    /// The name of the database that downstream has where its guard needs one.
    pub(crate) fn downstream_database(&self) -> String {
        format!("{}_down", self.vhost)
    }

    /// Changes the configuration that a service reads when it starts.
    pub(crate) fn rewrite(&self, which: Which, change: impl FnOnce(String) -> String) -> anyhow::Result<()> {
        let file = self.dir.join(format!("{}.toml", which.name()));
        let text = std::fs::read_to_string(&file)?;
        Ok(std::fs::write(&file, change(text))?)
    }

    /// Waits until callback has found so many messages signed.
    pub(crate) async fn verified(&self, messages: u32) -> anyhow::Result<()> {
        self.reaches(Which::Callback, CHECKS, "verdict=\"verified\"", messages).await
    }

    /// Waits until callback has recorded so many receipts of what is done.
    pub(crate) async fn signed(&self, messages: u32) -> anyhow::Result<()> {
        self.reaches(Which::Callback, RECEIPTS, "outcome=\"done\"", messages).await
    }

    /// Waits until a counter of a service has reached this, over the samples with a label.
    pub(crate) async fn reaches(&self, which: Which, metric: &str, label: &str, count: u32) -> anyhow::Result<()> {
        let look = self.system.look();
        wait_until(&format!("{count} of {metric}{{{label}}}"), ALL, async || {
            look.metric(which, metric, label).await.is_ok_and(|now| now >= f64::from(count))
        })
        .await
    }

    /// Processor time of upstream, downstream and callback since this was last asked.
    pub(crate) fn cpu(&mut self) -> anyhow::Result<[Duration; 3]> {
        let mut spent = [Duration::ZERO; 3];
        for (place, which) in [Which::Upstream, Which::Downstream, Which::Callback].into_iter().enumerate() {
            let now = process::cpu(self.system.process(which)?.pid())?;
            spent[place] = now.saturating_sub(self.cpu[place]);
            self.cpu[place] = now;
        }
        Ok(spent)
    }

    /// Stops the services; no invariant may have been violated, and each of so many messages must have been handled exactly once.
    pub(crate) async fn finish(self, messages: u32) -> anyhow::Result<Tally> {
        let dir = self.dir.clone();
        self.stop().await?;
        let tally = Tally::read(&dir)?;
        tally.once_each(messages)?;
        Ok(tally)
    }

    /// Stops the services; no invariant may have been violated. What was handled is known elsewhere.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        for which in Which::ALL {
            let violations = self.system.metric(which, "countersign_invariant_violations_total").await?;
            ensure!(violations == 0.0, "{} counted {violations} violated invariants", which.name());
        }
        for which in [Which::Upstream, Which::Downstream, Which::Callback] {
            self.system.stop(which).await.with_context(|| format!("stopping {}", which.name()))?;
        }
        Ok(())
    }
}
