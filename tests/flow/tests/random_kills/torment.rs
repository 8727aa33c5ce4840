//! Three callbacks that are started, disturbed by one card after another, and started again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::bail;
use countersign_flow::Crew;
use tokio::time::{Instant, sleep};

use super::deck::{Card, Deck, Fault};

/// Between two looks at who lives.
const LOOK: Duration = Duration::from_millis(50);
/// How long a process may live without passing its point; then it is killed, and the card put back.
const POINT: Duration = Duration::from_secs(15);
/// How long one may take to stop when asked.
const STOP: Duration = Duration::from_secs(30);

/// Counts of one fault.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// It struck.
    pub struck: u32,
    /// It was meant to and did not.
    pub missed: u32,
}

/// Counts by fault.
pub type Tally = BTreeMap<String, Counts>;

/// One process.
struct Life {
    card: Card,
    began: Instant,
    /// Since when it has been asked to stop.
    asked: Option<Instant>,
}

/// Plays cards on all members until the time is up, and leaves each behind alive. `called` is told whom operators should call.
///
/// # Errors
/// When one ends by itself, or does not stop as it should.
pub async fn torment(
    crew: &mut Crew,
    members: usize,
    mut deck: Deck,
    until: Instant,
    called: &AtomicUsize,
) -> anyhow::Result<Tally> {
    let mut tally = Tally::new();
    let mut lives = Vec::new();
    for member in 0..members {
        lives.push(begin(crew, member, &mut deck, called)?);
    }
    while Instant::now() < until {
        sleep(LOOK).await;
        for (member, life) in lives.iter_mut().enumerate() {
            let Some(struck) = ended(crew, member, life)? else { continue };
            let counts = tally.entry(life.card.fault.to_string()).or_default();
            *(if struck { &mut counts.struck } else { &mut counts.missed }) += 1;
            if !struck {
                deck.put_back(life.card);
            }
            *life = begin(crew, member, &mut deck, called)?;
        }
    }
    for member in 0..members {
        crew.kill(member);
        crew.spawn(member)?;
    }
    Ok(tally)
}

fn begin(crew: &mut Crew, member: usize, deck: &mut Deck, called: &AtomicUsize) -> anyhow::Result<Life> {
    let card = deck.draw();
    crew.spawn_with(member, &card.failpoints())?;
    if card.fault.needs_calls() {
        called.store(member, Ordering::Relaxed);
    }
    Ok(Life { card, began: Instant::now(), asked: None })
}

/// Ends a life whose time has come. None: it goes on; else whether its fault struck.
fn ended(crew: &mut Crew, member: usize, life: &mut Life) -> anyhow::Result<Option<bool>> {
    let Life { card, began, asked } = life;
    let alive = crew.is_alive(member);
    match card.fault {
        Fault::Point(point) if !alive => {
            if crew.has_hit(member, point.name()) {
                return Ok(Some(true));
            }
            bail!("member {member} has ended before it came to {}: {}", point.name(), crew.last_words());
        }
        Fault::Point(_) if began.elapsed() > POINT => {
            crew.kill(member);
            Ok(Some(false))
        }
        Fault::Restarted if asked.is_some() && !alive => Ok(Some(true)),
        Fault::Killed | Fault::Restarted if !alive => bail!("member {member} has ended by itself: {}", crew.last_words()),
        Fault::Killed if began.elapsed() > card.alive => {
            crew.kill(member);
            Ok(Some(true))
        }
        Fault::Restarted if asked.is_none() && began.elapsed() > card.alive => {
            crew.terminate(member)?;
            *asked = Some(Instant::now());
            Ok(None)
        }
        Fault::Restarted if asked.is_some_and(|asked| asked.elapsed() > STOP) => {
            bail!("member {member} does not stop: {}", crew.last_words())
        }
        _ => Ok(None),
    }
}
