//! What else is disturbed, one after another: the broker, all connections, callback, downstream.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context as _, bail};
use countersign_launcher::{SUBSCRIPTION, Which, wait_until};
use tokio::time::{Instant, sleep};

use crate::stage::{READY, Stage, VHOST};
use crate::tally::Tally;

/// Between two of these faults, milliseconds.
const GAP_MS: RangeInclusive<u64> = 4_000..=9_000;
/// How long something that was killed stays away, milliseconds.
const AWAY_MS: RangeInclusive<u64> = 0..=2_000;
/// What downstream counts.
const POSSIBLE_DUPLICATES: &str = "countersign_possible_duplicates_total";

/// What strikes apart from upstream. Downstream is never killed: between effect and mark that would have its price, as promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerFault {
    /// SIGKILL to the broker, and a new start on its data.
    BrokerKilled,
    /// All connections closed by the broker.
    ConnectionsClosed,
    /// SIGKILL to callback.
    CallbackKilled,
    /// SIGTERM to downstream, and a new start.
    DownstreamRestarted,
    /// SIGTERM to downstream, and what gathers in the work queue meanwhile is purged before its new start.
    QueuePurged,
}

impl ServerFault {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::BrokerKilled, Self::ConnectionsClosed, Self::CallbackKilled, Self::DownstreamRestarted, Self::QueuePurged];
}

impl fmt::Display for ServerFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BrokerKilled => "broker: SIGKILL, restart",
            Self::ConnectionsClosed => "all connections closed",
            Self::CallbackKilled => "callback: SIGKILL",
            Self::DownstreamRestarted => "downstream: SIGTERM",
            Self::QueuePurged => "downstream: SIGTERM, queue purged",
        })
    }
}

/// Disturbs in shuffled rounds until the time is up, and leaves everything running.
///
/// # Errors
/// When something does not come back, or ends by itself.
pub async fn disturb(stage: &Stage, seed: u64, until: Instant, tally: &Tally) -> anyhow::Result<()> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut round = Vec::new();
    while Instant::now() < until {
        sleep(Duration::from_millis(random.u64(GAP_MS))).await;
        if round.is_empty() {
            round = ServerFault::ALL.to_vec();
            random.shuffle(&mut round);
        }
        let Some(fault) = round.pop() else { continue };
        let away = Duration::from_millis(random.u64(AWAY_MS));
        for which in [Which::Callback, Which::Downstream] {
            if !stage.is_alive(which) {
                bail!("{} has ended by itself; {}", which.name(), stage.tail(which));
            }
        }
        let struck = strike(stage, fault, away, tally).await.with_context(|| fault.to_string())?;
        tally.note(fault, struck);
    }
    Ok(())
}

async fn strike(stage: &Stage, fault: ServerFault, away: Duration, tally: &Tally) -> anyhow::Result<bool> {
    match fault {
        ServerFault::BrokerKilled => broker_killed(stage, away, tally).await?,
        // The management interface comes up later than the broker.
        ServerFault::ConnectionsClosed => {
            // "Closed 6 connections", in a line of its own.
            let said = stage.rabbitmq.lock().await.close_connections(VHOST).await?;
            return Ok(!said.contains("Closed 0"));
        }
        ServerFault::CallbackKilled => {
            stage.with(|system| system.kill9(Which::Callback));
            sleep(away).await;
            stage.start(Which::Callback, "").await?;
        }
        ServerFault::DownstreamRestarted => {
            downstream_stopped(stage, tally).await?;
            sleep(away).await;
            stage.start(Which::Downstream, "").await?;
        }
        ServerFault::QueuePurged => {
            downstream_stopped(stage, tally).await?;
            sleep(away).await;
            let purged = stage.broker.purge(VHOST, SUBSCRIPTION).await?;
            stage.start(Which::Downstream, "").await?;
            tally.note_stolen(u64::from(purged));
            return Ok(purged > 0);
        }
    }
    Ok(true)
}

/// Callback and downstream find back to the broker by themselves.
async fn broker_killed(stage: &Stage, away: Duration, tally: &Tally) -> anyhow::Result<()> {
    let mut rabbitmq = stage.rabbitmq.lock().await;
    rabbitmq.kill9();
    tally.note_kill();
    sleep(away).await;
    rabbitmq.start_again().await?;
    for which in [Which::Callback, Which::Downstream] {
        let what = format!("{} to find the broker again", which.name());
        let ready = wait_until(&what, READY, async || stage.look.is_ready(which).await).await;
        ready.with_context(|| stage.tail(which))?;
    }
    Ok(())
}

async fn downstream_stopped(stage: &Stage, tally: &Tally) -> anyhow::Result<()> {
    note_possible_duplicates(stage, tally).await?;
    if stage.stop(Which::Downstream).await? {
        return Ok(());
    }
    bail!("it did not end with success; {}", stage.tail(Which::Downstream))
}

/// Adds what this life of downstream has counted; call it once a life, at its end.
///
/// # Errors
/// When it does not answer.
pub async fn note_possible_duplicates(stage: &Stage, tally: &Tally) -> anyhow::Result<()> {
    let counted = stage.look.metric(Which::Downstream, POSSIBLE_DUPLICATES, "").await?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
    tally.note_possible_duplicates(counted.round() as u64);
    Ok(())
}
