//! Three callbacks over one MSG DB are killed at random and at each of their points, while messages and receipts are lost, the handler fails,
//! and an operator redrives what it has refused.
//!
//! The faults are a function of the seed ([`deck`]), their moments are not. What is lost, refused and asked for is written down by those who do
//! it ([`thief`], the handler, [`operator`]); afterwards [`books`] compares that with the effects and with callback's tries.

mod books;
mod deck;
mod operator;
mod thief;
mod torment;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_flow::{Crew, Flow, PATIENCE, Setup};
use countersign_launcher::{SUBSCRIPTION, Which, wait_until};
use sea_orm::{ConnectionTrait as _, DatabaseConnection, Statement};
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::events::Listener;
use crate::events::away::rows;
use books::Books;
use deck::{Deck, points};
use operator::Redrives;
use thief::{Book, Prey, steal};
use torment::{Counts, torment};

/// Callbacks over MSG DB.
const MEMBERS: usize = 3;
/// Orders in one call, and between two calls: eighty a second.
const CALL: u32 = 20;
const PACE: Duration = Duration::from_millis(250);
/// Receipts and checks in one message of the broker, at most: few, so that a loss is one of single messages.
const MAX_BATCH: u32 = 16;
/// Long enough for a busy machine: what was sent again is signed within it.
const GRACE_MS: u64 = 4_000;
/// Between two wishes to the handler.
const MOOD: Duration = Duration::from_millis(750);
/// Calls that fail in a row: fewer than open the breaker.
const FAILING: std::ops::RangeInclusive<u32> = 2..=8;
/// Orders that are refused for good in a row.
const REFUSED: std::ops::RangeInclusive<u32> = 1..=3;
/// The seed of the short run.
const SHORT_SEED: u64 = 1;
/// How long the short and the long run are disturbed.
const SHORT: Duration = Duration::from_secs(25);
const LONG_SECONDS: u64 = 600;

/// Where a run stands; written by whoever it concerns.
#[derive(Default)]
pub struct Course {
    sent: AtomicUsize,
    over: AtomicBool,
    healed: AtomicBool,
}

impl Course {
    /// Messages that were accepted.
    fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    /// Whether the faults are over.
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Whether there is nothing left to do.
    fn is_healed(&self) -> bool {
        self.healed.load(Ordering::Relaxed)
    }
}

/// Sends until the faults are over.
async fn send(flow: &Flow, course: &Course) -> anyhow::Result<Vec<String>> {
    let (mut ids, mut ticks) = (Vec::new(), interval(PACE));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !course.is_over() {
        ticks.tick().await;
        ids.extend(flow.send(u32::try_from(ids.len())?, CALL).await?);
        course.sent.store(ids.len(), Ordering::Relaxed);
    }
    Ok(ids)
}

/// Has the handler fail now and then, by turns for a while and for good.
async fn moods(flow: &Flow, mut random: fastrand::Rng, course: &Course) -> anyhow::Result<()> {
    for turn in 0.. {
        if course.is_over() {
            break;
        }
        let (status, range) = if turn % 2 == 0 { (503, FAILING) } else { (422, REFUSED) };
        flow.system.behave(&json!({"status": status, "for": random.u32(range)})).await?;
        sleep(MOOD).await;
    }
    flow.system.behave(&json!({})).await
}

/// Waits until MSG DB has each of so many messages as done, and no other delivery.
pub async fn all_done(flow: &Flow, sent: usize, patience: Duration) -> anyhow::Result<()> {
    let database = flow.msg_database().await?;
    let mut stand = Vec::new();
    let done = wait_until("every delivery to be done", patience, async || {
        stand = states(&database).await.unwrap_or_default();
        matches!(stand.as_slice(), [(state, count)] if state == "done" && usize::try_from(*count) == Ok(sent))
    });
    done.await.with_context(|| format!("of {sent} messages: {stand:?}"))?;
    Ok(database.close().await?)
}

async fn states(database: &DatabaseConnection) -> anyhow::Result<Vec<(String, i64)>> {
    let query = "SELECT state, count(*) AS n FROM countersign_delivery GROUP BY state ORDER BY state";
    let rows = database.query_all_raw(Statement::from_string(database.get_database_backend(), query)).await?;
    rows.iter().map(|row| Ok((row.try_get("", "state")?, row.try_get("", "n")?))).collect()
}

/// How often each point was come to, over all lives of all members.
fn hits(crew: &Crew) -> anyhow::Result<BTreeMap<&'static str, usize>> {
    let logs = crew.sound_logs()?;
    let count = |name: &str| logs.iter().map(|log| log.matches(&format!("failpoint hit: {name}\n")).count()).sum();
    Ok(points().into_iter().map(|point| (point.name(), count(point.name()))).collect())
}

/// Who disturbs what, and for how long.
struct Run {
    seed: u64,
    lasts: Duration,
    /// For everything to heal afterwards.
    patience: Duration,
    /// Whether every point of callback has to be come to.
    every_point: bool,
}

async fn run(test: &str, run: Run) -> anyhow::Result<()> {
    println!("seed {0}, {1:?}; COUNTERSIGN_SEED={0} repeats it", run.seed, run.lasts);
    let mut flow = Flow::new(test, Setup { postgres: true, max_batch: MAX_BATCH }).await?;
    let outcome = play(&mut flow, &run).await;
    // A panic keeps the logs.
    assert!(outcome.is_ok(), "seed {}: {:?}", run.seed, outcome.err());
    flow.finish().await
}

async fn play(flow: &mut Flow, run: &Run) -> anyhow::Result<()> {
    flow.figure("probe_grace_ms", GRACE_MS)?;
    let mut crew = Crew::of_service(flow, Which::Callback, MEMBERS)?;
    crew.start().await?;
    flow.start(&[Which::Downstream, Which::Upstream]).await?;
    let listener = Listener::bound(flow).await?;
    let (book, ids, redrives) = Box::pin(disturbed(flow, &mut crew, run)).await?;
    crew.stop().await?;
    let hits = hits(&crew)?;
    println!("failpoints hit: {hits:?}");
    flow.start(&[Which::Callback]).await?;
    let books = Books {
        sent: ids.into_iter().collect(),
        effects: flow.system.effects().await?.effects,
        refusals: books::refusals(&flow.ground.path("orders.db")).await?,
        losses: book.losses(),
        redrives,
        deliveries: flow.deliveries().await?,
    };
    println!("{}", books.agree()?);
    for queue in ["countersign.receipts", "countersign.quarantine", "inventory.orders.dead", SUBSCRIPTION] {
        flow.queue_reaches(queue, 0).await?;
    }
    flow.dead_letters_reach("", 0).await?;
    flow.no_invariant_was_violated()?;
    if run.every_point {
        all_is_told(flow, &listener, &books).await?;
    }
    let never: Vec<_> = hits.iter().filter(|(_, count)| **count == 0).collect();
    ensure!(!run.every_point || never.is_empty(), "never come to: {never:?}");
    Ok(())
}

/// Waits until MSG DB has no event left, and asserts that a listener has heard of each delivery that did not go the straight way. What a callback
/// had taken when it was killed comes again when its lease is over.
async fn all_is_told(flow: &Flow, listener: &Listener, books: &Books) -> anyhow::Result<()> {
    wait_until("all events to be told", PATIENCE, async || rows(flow).await.is_ok_and(|rows| rows == 0)).await?;
    listener.listen().await?;
    let heard = listener.heard().await;
    let mut expected = 0;
    for delivery in &books.deliveries {
        let attempt = delivery.attempt.unwrap_or_default();
        let was_parked = attempt.epoch > 0;
        for (what, is_due) in [("parked", was_parked), ("recovered", was_parked || attempt.number > 1)] {
            let is_heard = heard.contains(&(what.to_owned(), delivery.message_id.clone()));
            ensure!(is_heard || !is_due, "nobody was told that {delivery:?} was {what}");
            expected += usize::from(is_due);
        }
    }
    println!("{expected} events that had to come were heard");
    Ok(())
}

/// From the first message until everything has healed: what was lost, what was sent, and what the operator asked for.
async fn disturbed(flow: &Flow, crew: &mut Crew, run: &Run) -> anyhow::Result<(Book, Vec<String>, Redrives)> {
    let mut random = fastrand::Rng::with_seed(run.seed);
    let (deck, mood, operator) = (Deck::new(random.fork()), random.fork(), random.fork());
    let (course, book, called, urls) = (Course::default(), Book::default(), AtomicUsize::new(0), crew.grpc_urls());
    let until = Instant::now() + run.lasts;
    let faults = async {
        let tally = torment(crew, MEMBERS, deck, until, &called).await;
        course.over.store(true, Ordering::Relaxed);
        tally
    };
    let thefts =
        async { tokio::try_join!(steal(flow, Prey::Messages, &course, &book), steal(flow, Prey::Receipts, &course, &book)) };
    let healing = async {
        let (tally, ids, stolen, ()) = tokio::try_join!(faults, send(flow, &course), thefts, moods(flow, mood, &course))?;
        for (fault, Counts { struck, missed }) in &tally {
            println!("{struck:4} struck, {missed:2} missed  {fault}");
        }
        println!("faults are over: {} sent, {} messages and {} receipts lost", ids.len(), stolen.0, stolen.1);
        ensure!(stolen.0 > 0 && stolen.1 > 0, "nothing was lost");
        let began = Instant::now();
        all_done(flow, ids.len(), run.patience).await?;
        course.healed.store(true, Ordering::Relaxed);
        println!("healed after {:.1} s", began.elapsed().as_secs_f64());
        anyhow::Ok(ids)
    };
    let (ids, redrives) = tokio::try_join!(healing, operator::mend(&urls, &called, operator, &course))?;
    Ok((book, ids, redrives))
}

fn number(variable: &str) -> anyhow::Result<Option<u64>> {
    let Ok(text) = std::env::var(variable) else { return Ok(None) };
    text.parse().map(Some).with_context(|| format!("{variable} is {text:?}: give a whole number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_kills_of_callbacks_lose_nothing_and_spend_no_try() -> anyhow::Result<()> {
    let seed = number("COUNTERSIGN_SEED")?.unwrap_or(SHORT_SEED);
    run("random_kills", Run { seed, lasts: SHORT, patience: 2 * PATIENCE, every_point: false }).await
}

/// `COUNTERSIGN_SEED` repeats a run, `COUNTERSIGN_LONG_SECONDS` shortens it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_kills_of_callbacks_lose_nothing_and_spend_no_try() -> anyhow::Result<()> {
    if std::env::var_os("COUNTERSIGN_LONG").is_none() {
        println!("skipped: this one takes ten minutes; run it with tests/run --long, or COUNTERSIGN_LONG=1");
        return Ok(());
    }
    let lasts = Duration::from_secs(number("COUNTERSIGN_LONG_SECONDS")?.unwrap_or(LONG_SECONDS));
    let seed = number("COUNTERSIGN_SEED")?.unwrap_or_else(|| fastrand::u64(1..1_000_000));
    run("random_kills_long", Run { seed, lasts, patience: 5 * PATIENCE, every_point: true }).await
}
