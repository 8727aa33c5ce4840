//! Takes over what a stopped process left behind: its unsettled messages are published, then its incarnation is closed.
//!
//! Five steps, in this order: claim the heartbeat row, from when on no insert begins under it; publish from its stored watermark on;
//! fence, which waits for the transactions that are open; scan again from the *stored* watermark, publish, await the confirms; close. The
//! scan after the fence is a new transaction, so it sees what was committed between the first scan and the fence. A message that this
//! adopter has taken on in the first scan is not published twice by the second one: it is in the ledger until the broker has confirmed
//! message and check.
//!
//! An adopter that dies is adopted itself, and what it had claimed can be claimed again. Two adopters are harmless: downstream
//! processes once. The stored watermark is never moved here.

mod observe;

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use countersign_boot::{Failpoint, failpoint};
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::messages::Heartbeat;
use countersign_delivery::{IncarnationId, Seq};
use countersign_telemetry::names;
use tokio::time::{Instant, sleep};
use tracing::Instrument as _;

use crate::adopt::observe::{Observer, Reading};
use crate::desk::Desk;
use crate::incarnations::note;
use crate::ledger::Ledger;
use crate::publish;

/// Incarnations that are adopted at a time.
const AT_A_TIME: usize = 4;
/// Pause before a fence is tried again that an open transaction held up.
const FENCE_PAUSE: Duration = Duration::from_millis(500);

/// What an adoption came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Everything it stored is settled, and it is closed.
    Closed,
    /// Somebody else moved first.
    Lost,
}

/// Which incarnations this process is adopting right now.
type Running = Arc<Mutex<HashSet<IncarnationId>>>;

/// Observes the heartbeats of all others, and adopts the dead, until the soft stop.
pub(crate) async fn run(desk: Arc<Desk>) {
    let (mut observer, running) = (Observer::default(), Running::default());
    let stop = desk.stop.soft_token();
    let pause = Duration::from_millis(desk.config.heartbeat_ms);
    loop {
        if stop.run_until_cancelled(observe_once(&desk, &mut observer, &running)).await.is_none() {
            return;
        }
        if stop.run_until_cancelled(sleep(pause)).await.is_none() {
            return;
        }
    }
}

async fn observe_once(desk: &Arc<Desk>, observer: &mut Observer, running: &Running) {
    let asked = Instant::now();
    let rows = match desk.messages.heartbeats(&desk.config.name).await {
        Ok(rows) => rows,
        Err(error) => return note("heartbeats cannot be read", &error),
    };
    let reading = Reading { asked, answered: Instant::now() };
    forget_what_others_took(desk, &rows, running);
    let Some(adopter) = desk.incarnations.current() else { return };
    let lease = Duration::from_millis(desk.config.lease_ms);
    for heartbeat in observer.dead(reading, &rows, &desk.incarnations.own_ids(), lease) {
        let mut adopting = running.lock().unwrap_or_else(PoisonError::into_inner);
        if adopting.len() < AT_A_TIME && adopting.insert(heartbeat.incarnation) {
            start(desk, &adopter, heartbeat, running.clone());
        }
    }
}

/// An adoption of ours that was interrupted, and is somebody else's by now: what waits to be published is theirs.
fn forget_what_others_took(desk: &Desk, rows: &[Heartbeat], running: &Running) {
    let own = desk.incarnations.own_ids();
    let adopting = running.lock().unwrap_or_else(PoisonError::into_inner);
    for ledger in desk.incarnations.inherited() {
        let row = rows.iter().find(|row| row.incarnation == ledger.incarnation());
        let ours = row.is_some_and(|row| row.adopter.is_some_and(|adopter| own.contains(&adopter)));
        if !ours && !adopting.contains(&ledger.incarnation()) {
            desk.incarnations.disinherit(&ledger);
        }
    }
}

fn start(desk: &Arc<Desk>, adopter: &Arc<Ledger>, heartbeat: Heartbeat, running: Running) {
    let (desk, adopter) = (desk.clone(), adopter.clone());
    desk.tasks.clone().spawn("adopt", async move {
        adopter.adoptions.fetch_add(1, Ordering::Relaxed);
        let stop = desk.stop.soft_token();
        let adopting = adopt(&desk, &heartbeat, adopter.incarnation());
        match stop.run_until_cancelled(adopting).await {
            Some(Ok(outcome)) => tracing::info!(incarnation = %heartbeat.incarnation, ?outcome, "adoption ended"),
            // Still claimed in our name, so the next observation takes it up again.
            Some(Err(error)) => note("an adoption was interrupted", &error),
            None => tracing::info!(incarnation = %heartbeat.incarnation, "stopping: its adoption is left to others"),
        }
        adopter.adoptions.fetch_sub(1, Ordering::Relaxed);
        running.lock().unwrap_or_else(PoisonError::into_inner).remove(&heartbeat.incarnation);
    });
}

/// Adopts one incarnation, from its claim to its close.
pub(crate) async fn adopt(desk: &Arc<Desk>, seen: &Heartbeat, adopter: IncarnationId) -> Result<Outcome, PortError> {
    let span = tracing::info_span!(names::SPAN_ADOPT, { names::OTEL_KIND } = names::INTERNAL, incarnation = %seen.incarnation, watermark = names::int(seen.watermark.0));
    async {
        let ledger = desk.incarnations.inherit(seen.incarnation);
        if !desk.messages.adopt(seen, adopter).await? {
            desk.incarnations.disinherit(&ledger);
            return Ok(Outcome::Lost);
        }
        tracing::warn!(incarnation = %seen.incarnation, from = seen.watermark.0, "adopting what a stopped process left behind");
        failpoint(Failpoint::AdoptAfterClaim);
        let before = sweep(desk, &ledger, seen.watermark).await?;
        failpoint(Failpoint::AdoptAfterFirstSweep);
        fence(desk, seen.incarnation).await?;
        failpoint(Failpoint::AdoptAfterFence);
        let after = sweep(desk, &ledger, seen.watermark).await?;
        failpoint(Failpoint::AdoptAfterSecondSweep);
        ledger.drained().await;
        failpoint(Failpoint::AdoptBeforeClose);
        desk.messages.close(seen.incarnation).await?;
        desk.incarnations.disinherit(&ledger);
        tracing::info!(incarnation = %seen.incarnation, messages = before + after, "adopted: published and closed");
        Ok(Outcome::Closed)
    }
    .instrument(span)
    .await
}

/// Takes on and publishes every row from a seq on that was not taken on before. Returns how many.
async fn sweep(desk: &Arc<Desk>, ledger: &Arc<Ledger>, from: Seq) -> Result<usize, PortError> {
    let page_rows = desk.page_rows();
    let limit = u32::try_from(page_rows).unwrap_or(u32::MAX);
    let (mut from, mut count) = (from, 0);
    loop {
        let page = desk.messages.scan(ledger.incarnation(), from, limit).await?;
        let Some(last) = page.last().map(|stored| stored.position.seq) else { return Ok(count) };
        let ended = page.len() < page_rows;
        let fresh = page.into_iter().filter(|stored| ledger.take_on(stored.position.seq));
        let rows: Vec<_> = fresh.map(|stored| (stored.position.seq, stored.message)).collect();
        count += rows.len();
        publish::again_and_wait(desk, ledger, rows).await;
        if ended {
            return Ok(count);
        }
        from = last.next();
    }
}

/// Fences, however long open transactions take.
async fn fence(desk: &Desk, incarnation: IncarnationId) -> Result<(), PortError> {
    loop {
        match desk.messages.fence(incarnation).await {
            Err(error) if error.is_transient() => note("a fence waits for an open transaction", &error),
            fenced => return fenced,
        }
        sleep(FENCE_PAUSE).await;
    }
}

#[cfg(test)]
mod tests;
