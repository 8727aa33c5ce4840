//! The three services of one round, on a corner of the servers that nobody has used.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_launcher::{Extras, System, Which, Wiring, wait_until};

use crate::process;
use crate::servers::Servers;
use crate::tally::Tally;

/// From the publish to the check, milliseconds.
pub(crate) const CHECK_DELAY_MS: u64 = 5_000;
/// For all messages of a round.
const ALL: Duration = Duration::from_mins(10);
/// As many messages on their way as the broker client can take, and a handler for each batch.
const DOWNSTREAM: &str = "concurrency = 256\nprefetch = 1000";

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

/// The running services.
pub(crate) struct Rig {
    pub system: System,
    pub amqp: String,
    dir: PathBuf,
    cpu: [Duration; 3],
}

impl Rig {
    /// Takes a fresh virtual host, fresh databases and an empty Redis, and starts all three services.
    pub(crate) async fn start(servers: &Servers, shape: &Shape) -> anyhow::Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let name = format!("bench{}", COUNTER.fetch_add(1, Ordering::Relaxed));
        let dir = servers.dir.path().join(&name);
        std::fs::create_dir(&dir)?;
        servers.rabbitmq.create_vhost(&name).await?;
        servers.redis.command("FLUSHALL").await?;
        let amqp = servers.rabbitmq.amqp_url(&name);
        let wiring = Wiring {
            dir: dir.clone(),
            amqp: amqp.clone(),
            redis: servers.redis.url(),
            upstream_database: servers.postgres.create_database(&format!("{name}_up")).await?,
            callback_database: servers.postgres.create_database(&format!("{name}_msg")).await?,
            max_batch: 256,
            check_delay_ms: CHECK_DELAY_MS,
            handler_mode: "count",
            otlp: None,
        };
        let mut system = System::prepare_with(wiring, shape.extras.clone()).await?;
        if shape.downstream != Which::Downstream.binary() {
            system.handled_in_process()?;
        }
        system.start(Which::Callback, "").await?;
        system.spawn_as(Which::Downstream, shape.downstream, "")?;
        system.ready(Which::Downstream).await?;
        system.start(Which::Upstream, "").await?;
        Ok(Self { system, amqp, dir, cpu: [Duration::ZERO; 3] })
    }

    /// Waits until callback has found so many messages signed.
    pub(crate) async fn verified(&self, messages: u32) -> anyhow::Result<()> {
        const CHECKS: &str = "countersign_checks_total";
        let look = self.system.look();
        wait_until(&format!("{messages} messages to be verified"), ALL, async || {
            let verified = look.metric(Which::Callback, CHECKS, "verdict=\"verified\"").await;
            verified.is_ok_and(|verified| verified >= f64::from(messages))
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
    pub(crate) async fn finish(mut self, messages: u32) -> anyhow::Result<Tally> {
        for which in Which::ALL {
            let violations = self.system.metric(which, "countersign_invariant_violations_total").await?;
            ensure!(violations == 0.0, "{} counted {violations} violated invariants", which.name());
        }
        for which in [Which::Upstream, Which::Downstream, Which::Callback] {
            self.system.stop(which).await.with_context(|| format!("stopping {}", which.name()))?;
        }
        let tally = Tally::read(&self.dir)?;
        ensure!(tally.messages == u64::from(messages), "{messages} messages were sent, {} handled", tally.messages);
        ensure!(tally.calls == tally.messages, "{} messages were handled {} times", tally.messages, tally.calls);
        Ok(tally)
    }
}
