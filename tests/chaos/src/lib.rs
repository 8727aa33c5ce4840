//! Random kills of two upstreams and of the broker under load, and what the books say afterwards.
//!
//! The story in order: [`stage`] starts servers and services of its own; [`sender`] keeps sending, each message under a key of its own;
//! meanwhile every upstream is tormented ([`torment`]) by the cards of its [`deck`], [`servers`] disturbs broker, callback and downstream,
//! and a [`thief`] loses messages. When the time is up the faults end and everything has to heal by itself; then [`books`] reads what the
//! handler, upstream and callback have in their databases, and [`history`] compares that with what the sender was told.
//!
//! **Invariant:** a seed draws the same cards for each upstream, and the same order of everything else, on any machine.

#![allow(clippy::disallowed_methods, reason = "tests have no launch frame; the ban is for the product")]

mod books;
pub mod deck;
pub mod history;
mod sender;
mod servers;
mod stage;
mod tally;
mod thief;
mod torment;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_launcher::Which;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::deck::{Deck, Fault};
use crate::stage::Stage;
use crate::tally::Tally;

/// How often a line is printed.
const PROGRESS: Duration = Duration::from_secs(30);
/// A run of this length or more has to reach [`LEAST_KILLS`] and [`LEAST_HITS`].
const FULL: Duration = Duration::from_mins(10);
/// Processes that a full run must have killed.
const LEAST_KILLS: u64 = 100;
/// How often a full run must have hit each fault of upstream.
const LEAST_HITS: u64 = 5;

/// What is asked of a run.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// Draws the faults.
    pub seed: u64,
    /// How long they last.
    pub lasts: Duration,
    /// Processes that must have been killed at least; a full run has a figure of its own.
    pub least_kills: u64,
}

/// Runs from the first message to the last look at the books.
///
/// # Errors
/// Everything that is not as promised; logs and databases are kept then.
pub async fn run(run: Run) -> anyhow::Result<()> {
    println!("chaos: seed {}, {:?}; repeat it with COUNTERSIGN_SEED={}", run.seed, run.lasts, run.seed);
    let mut stage = Stage::set().await?;
    let tally = Tally::default();
    let outcome = play(&stage, run, &tally).await;
    println!("{}\n{}", tally.table(), tally.line());
    if outcome.is_err() {
        println!("FAILED with seed {}; logs and databases are kept in {}", run.seed, stage.keep().display());
    }
    outcome
}

async fn play(stage: &Stage, run: Run, tally: &Tally) -> anyhow::Result<()> {
    let mut seeds = fastrand::Rng::with_seed(run.seed);
    let mut seed = || seeds.u64(..);
    let until = Instant::now() + run.lasts;
    let [one, other] = Which::UPSTREAMS.map(|which| torment::torment(stage, which, Deck::new(seed()), until, tally));
    let servers = servers::disturb(stage, seed(), until, tally);
    let faults = async {
        tokio::try_join!(one, other, servers)?;
        tally.end();
        anyhow::Ok(())
    };
    let callers = (0..sender::CALLERS).map(|name| sender::send(stage, name, seed(), tally)).collect::<Vec<_>>();
    let callers = async {
        for outcome in futures::future::join_all(callers).await {
            outcome?;
        }
        anyhow::Ok(())
    };
    tokio::try_join!(faults, callers, thief::steal(stage, seed(), tally), tell(tally))?;
    println!("faults are over: {}", tally.line());
    end(stage, run, tally).await
}

/// Healing, and every claim that is made of the end.
async fn end(stage: &Stage, run: Run, tally: &Tally) -> anyhow::Result<()> {
    let (books, took) = books::healed(stage, tally).await?;
    let handled = books.effects.len();
    println!("healed after {took:?}: {handled} effects, {} stored, {} signed for", books.stored.len(), books.signed.len());
    let mut complaints = history::complaints(&tally.history(), &books);
    complaints.extend(books::violations(stage).await.context("asking for violated invariants")?);
    let kills = if run.lasts >= FULL { LEAST_KILLS } else { run.least_kills };
    if tally.kills() < kills {
        complaints.push(format!("{} kills; at least {kills} were wanted", tally.kills()));
    }
    if run.lasts >= FULL {
        let rare = Fault::all().into_iter().filter(|fault| tally.of(fault).struck < LEAST_HITS);
        complaints.extend(rare.map(|fault| format!("{fault} struck only {} times", tally.of(fault).struck)));
    }
    ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
    Ok(())
}

/// Prints a line now and then.
async fn tell(tally: &Tally) -> anyhow::Result<()> {
    let (began, mut ticks) = (Instant::now(), interval(Duration::from_secs(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next = PROGRESS;
    while !tally.is_over() {
        ticks.tick().await;
        if began.elapsed() >= next {
            println!("{:4} s: {}", began.elapsed().as_secs(), tally.line());
            next += PROGRESS;
        }
    }
    Ok(())
}
