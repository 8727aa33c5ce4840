//! The one order in which a process stops.
//!
//! 1. Readiness turns 503 and gRPC health `NOT_SERVING`: whoever routes to us looks elsewhere.
//! 2. Wait one probe period (`shutdown.probe_period_ms`), so that they have noticed.
//! 3. Soft stop: tasks take no new work and finish what is in flight, at most `shutdown.grace_ms`. The servers still
//!    answer meanwhile, for calls that were accepted need the tasks' work.
//! 4. Hard stop: tasks drop what they do; what was not acked comes again.
//! 5. Servers close under a time-out: a graceful stop waits for clients, and clients may stay for ever.
//! 6. Telemetry is flushed.
//!
//! A second signal ends the process at once.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Shutdown;
use crate::context::Context;
use crate::launch::{FLUSH, RUNTIME_STOP};

/// Time that tasks have after hard stop has begun.
const HARD_STOP: Duration = Duration::from_secs(2);
/// Time that servers have to close their connections.
const SERVERS_CLOSE: Duration = Duration::from_secs(2);

/// The signals that stop a process.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes the signals over from the system, which would just kill.
    pub(crate) fn install() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> (&'static str, i32) {
        tokio::select! {
            _ = self.terminate.recv() => ("SIGTERM", 15),
            _ = self.interrupt.recv() => ("SIGINT", 2),
        }
    }

    /// The first signal requests a stop, the second ends the process with 128 + its number.
    pub(crate) async fn watch(mut self, context: Context) {
        let (name, _) = self.next().await;
        tracing::info!(signal = name, "stopping");
        context.stop.request();
        let (name, number) = self.next().await;
        tracing::warn!(signal = name, "second signal: ending at once");
        std::process::exit(128 + number);
    }
}

/// The longest time from the first signal to the end of the process: whoever would kill it has to wait for so long.
#[must_use]
pub const fn longest_stop(limits: &Shutdown) -> Duration {
    let tasks = Duration::from_millis(limits.probe_period_ms.saturating_add(limits.grace_ms));
    tasks.saturating_add(HARD_STOP).saturating_add(SERVERS_CLOSE).saturating_add(FLUSH).saturating_add(RUNTIME_STOP)
}

/// Stops everything in the order above, up to the servers. Returns whether all tasks ended; `launch` calls it.
pub async fn stop_in_order(context: &Context, limits: &Shutdown) -> bool {
    context.stop.request();
    context.health.stopping();
    // A process that never was ready was sent nothing, and need not wait for anybody to notice.
    if context.is_started() {
        tokio::time::sleep(Duration::from_millis(limits.probe_period_ms)).await;
    }

    context.stop.begin_soft();
    let mut ended = context.tasks.drained(Duration::from_millis(limits.grace_ms)).await;
    if !ended {
        tracing::warn!(tasks = ?context.tasks.running(), grace_ms = limits.grace_ms, "grace is over: hard stop");
    }
    context.stop.begin_hard();
    if !ended {
        ended = context.tasks.drained(HARD_STOP).await;
    }
    if !ended {
        tracing::error!(tasks = ?context.tasks.running(), "tasks ignored the hard stop and are abandoned");
    }

    context.frame.servers_stop.cancel();
    context.frame.servers.close();
    if tokio::time::timeout(SERVERS_CLOSE, context.frame.servers.wait()).await.is_err() {
        tracing::info!("clients kept their connections open; they are closed now");
    }
    ended
}
