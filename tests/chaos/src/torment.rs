//! One upstream, that is started, disturbed by one card after another, and started again.

use std::time::Duration;

use anyhow::{Context as _, bail};
use countersign_launcher::{Which, wait_until};
use tokio::time::{Instant, sleep};

use crate::deck::{Card, Deck, Fault};
use crate::stage::{LEASE, Stage};
use crate::tally::Tally;

/// How long a process may live without passing its point; then it is stopped, which it may pass the point by, and the card put back.
const POINT: Duration = Duration::from_secs(20);

/// Plays cards until the time is up, and leaves a living process behind.
///
/// # Errors
/// When it ends by itself, or is not ready or stopped in time.
pub async fn torment(stage: &Stage, which: Which, mut deck: Deck, until: Instant, tally: &Tally) -> anyhow::Result<()> {
    // The first card needs a process that is started for it.
    stage.with(|system| system.kill9(which));
    while Instant::now() < until {
        let card = deck.draw();
        let struck = play(stage, which, &card, tally).await.with_context(|| format!("{}: {}", which.name(), card.fault))?;
        tally.note(card.fault, struck);
        if struck && card.fault.is_kill() {
            tally.note_kill();
        }
        if !struck {
            deck.put_back(card);
        }
    }
    stage.start(which, "").await?;
    if stage.is_alive(which) { Ok(()) } else { bail!("{} has ended by itself; {}", which.name(), stage.tail(which)) }
}

/// One life, from the start to the end. False when the fault did not strike.
async fn play(stage: &Stage, which: Which, card: &Card, tally: &Tally) -> anyhow::Result<bool> {
    stage.start(which, &card.failpoints()).await?;
    match card.fault {
        Fault::Point(point) => dies_at(stage, which, card.fault, point.name()).await,
        Fault::Killed => {
            lives_for(stage, which, card.alive).await?;
            stage.with(|system| system.kill9(which));
            Ok(true)
        }
        Fault::Paused => {
            lives_for(stage, which, card.alive).await?;
            paused(stage, which, card.alive).await?;
            stage.with(|system| system.kill9(which));
            tally.note(Fault::Killed, true);
            tally.note_kill();
            Ok(true)
        }
        Fault::Restarted => {
            lives_for(stage, which, card.alive).await?;
            if stage.stop(which).await? {
                return Ok(true);
            }
            bail!("it did not end with success; {}", stage.tail(which))
        }
    }
}

/// Waits until the process has killed itself at its point; asks one that does not to stop.
async fn dies_at(stage: &Stage, which: Which, fault: Fault, point: &str) -> anyhow::Result<bool> {
    if fault.needs_calls() {
        stage.with(|system| system.route_to(which));
    }
    let dead = wait_until("it to die", POINT, async || !stage.is_alive(which)).await;
    let said = format!("failpoint hit: {point}");
    let hit = |stage: &Stage| stage.log_text(which).contains(&said);
    if dead.is_ok() {
        return if hit(stage) { Ok(true) } else { bail!("it has ended by itself; {}", stage.tail(which)) };
    }
    let before = stage.log_of(which).matches(&said).count();
    if stage.stop(which).await? {
        return Ok(false);
    }
    if stage.log_of(which).matches(&said).count() > before {
        return Ok(true);
    }
    bail!("it did not end with success; {}", stage.tail(which))
}

/// Stands still beyond the lease: the other upstream adopts it, and it has to find out.
async fn paused(stage: &Stage, which: Which, extra: Duration) -> anyhow::Result<()> {
    stage.with(|system| system.process(which)?.pause())?;
    sleep(LEASE + LEASE / 2 + extra).await;
    stage.with(|system| system.process(which)?.resume())?;
    stage.ready(which).await?;
    lives_for(stage, which, extra).await
}

/// Lets it live so long; it must not end by itself.
async fn lives_for(stage: &Stage, which: Which, alive: Duration) -> anyhow::Result<()> {
    sleep(alive).await;
    if stage.is_alive(which) { Ok(()) } else { bail!("it has ended by itself; {}", stage.tail(which)) }
}
