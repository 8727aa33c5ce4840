//! A crowd: duplicates, disorder, and replicas that are killed again and again, over one work queue.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use countersign_flow::{Crew, Flow, Ledger, PATIENCE, Setup};
use countersign_launcher::{Extras, SUBSCRIPTION, Which, wait_until};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// Downstreams over the work queue.
const REPLICAS: usize = 3;
/// One message in so many is published twice.
const DUPLICATED: usize = 5;
/// How slow the handler is, before and after its effect, milliseconds: what is killed between the two has its effect again.
const SLOW_MS: [u64; 2] = [20, 10];
/// A call that was under way when its caller was killed may have its effect so much later, milliseconds.
const UNDER_WAY_MS: i64 = 1_000;
/// The seed of the short run.
const SHORT_SEED: u64 = 1;

/// How large a run is.
struct Size {
    messages: usize,
    /// Between two kills, milliseconds.
    gaps_ms: RangeInclusive<u64>,
    /// For all effects.
    patience: Duration,
}

/// What is published: the first wave in its order, and the duplicates that come when everything is done.
struct Plan {
    first: Vec<usize>,
    late: Vec<usize>,
}

impl Plan {
    /// Every message once, in disorder; a fifth of them again: half of those at once, the others anywhere or late.
    fn of(messages: usize, random: &mut fastrand::Rng) -> Self {
        let mut numbers: Vec<usize> = (0..messages).collect();
        random.shuffle(&mut numbers);
        let duplicated = messages / DUPLICATED;
        let part = |range: Range<usize>| numbers[range].to_vec();
        let (at_once, anywhere) = (part(0..duplicated / 2), part(duplicated / 2..duplicated * 3 / 4));
        let late = part(duplicated * 3 / 4..duplicated);
        numbers.extend(anywhere);
        random.shuffle(&mut numbers);
        let mut twice: std::collections::BTreeSet<usize> = at_once.into_iter().collect();
        let again = |number: usize| if twice.remove(&number) { vec![number; 2] } else { vec![number] };
        Self { first: numbers.into_iter().flat_map(again).collect(), late }
    }
}

fn now_ms() -> anyhow::Result<i64> {
    Ok(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}

/// Kills one replica after the other, starts each again at once, until told to end; then tells when it killed.
async fn torment(
    mut crew: Crew,
    mut random: fastrand::Rng,
    gaps_ms: RangeInclusive<u64>,
    mut end: watch::Receiver<()>,
) -> anyhow::Result<(Crew, Vec<i64>)> {
    let mut kills = Vec::new();
    loop {
        let gap = Duration::from_millis(random.u64(gaps_ms.clone()));
        tokio::select! {
            _ = end.changed() => return Ok((crew, kills)),
            () = sleep(gap) => {}
        }
        let victim = random.usize(0..REPLICAS);
        kills.push(now_ms()?);
        crew.kill(victim);
        crew.spawn(victim)?;
    }
}

/// Every effect after a message's first was counted, and came because of a kill between that effect and its mark. Tells how many there are.
fn explained(effects: &BTreeMap<String, Vec<i64>>, counted: &BTreeMap<String, u64>, kills: &[i64]) -> anyhow::Result<usize> {
    let mut extra = 0;
    for (id, times) in effects.iter().filter(|(_, times)| times.len() > 1) {
        let of_this = counted.get(id).copied().unwrap_or_default();
        ensure!(
            times.len() as u64 <= of_this + 1,
            "{id} had its effect at {times:?}, and {of_this} possible duplicates are counted"
        );
        for pair in times.windows(2) {
            let between = kills.iter().any(|kill| (pair[0] - UNDER_WAY_MS..=pair[1]).contains(kill));
            ensure!(between, "{id} had its effect at {pair:?} without a kill between: {kills:?}");
        }
        extra += times.len() - 1;
    }
    Ok(extra)
}

/// Whether every queue is empty. What a member holds is in none.
async fn is_empty(flow: &Flow) -> bool {
    let tiers = flow.system.retry_delays_ms().map(|delay| format!("{SUBSCRIPTION}.retry.{delay}"));
    let others = ["countersign.receipts", "countersign.quarantine"].map(str::to_owned);
    if !flow.dead_letters("").await.is_ok_and(|letters| letters.is_empty()) {
        return false;
    }
    let of_its_own = ["", ".dead", ".limit"].map(|end| format!("{SUBSCRIPTION}{end}"));
    for queue in tiers.into_iter().chain(others).chain(of_its_own) {
        if !flow.ground.queue_depth(&queue).await.is_ok_and(|depth| depth == 0) {
            return false;
        }
    }
    true
}

/// Callback has each of these messages as done, and no other delivery.
async fn all_are_signed(flow: &Flow, ids: &[String], patience: Duration) -> anyhow::Result<()> {
    let mut unsigned = ids.len();
    let signed = wait_until("every message to be signed", patience, async || {
        let Ok(deliveries) = flow.deliveries().await else { return false };
        let done: std::collections::BTreeSet<_> =
            deliveries.iter().filter(|delivery| delivery.state == "done").map(|delivery| &delivery.message_id).collect();
        unsigned = ids.iter().filter(|id| !done.contains(id)).count();
        unsigned == 0 && deliveries.len() == ids.len()
    });
    signed.await.with_context(|| format!("{unsigned} of {} are not", ids.len()))
}

async fn crowd(test: &str, seed: u64, size: Size) -> anyhow::Result<()> {
    println!("seed {seed}: {} messages; COUNTERSIGN_SEED={seed} repeats it", size.messages);
    let mut random = fastrand::Rng::with_seed(seed);
    let extras = Extras { downstream: "concurrency = 16\nprefetch = 32".into(), ..Extras::default() };
    let mut flow = Flow::with_extras(test, Setup { postgres: false, max_batch: 256 }, extras).await?;
    flow.system.behave(&json!({ "delay_ms": SLOW_MS[0], "delay_after_ms": SLOW_MS[1] })).await?;
    flow.start(&[Which::Callback]).await?;
    let mut crew = Crew::of(&flow, REPLICAS)?;
    crew.start().await?;

    // Not by the seed: a Redis that is used again must not know them.
    let run = fastrand::u32(..);
    let ids: Vec<String> = (0..size.messages).map(|number| format!("{run:08x}-0000-7000-8000-{number:012x}")).collect();
    let plan = Plan::of(size.messages, &mut random);
    let ledger = Ledger::open(&flow.ground.path("orders.db")).await?;
    let began = Instant::now();
    let (end, ended) = watch::channel(());
    let tormenting = tokio::spawn(torment(crew, random.fork(), size.gaps_ms.clone(), ended));
    let straight = flow.straight().await?;
    straight.publish(plan.first.iter().map(|number| ids[*number].as_str())).await?;
    let wanted = u64::try_from(ids.len())?;
    let mut distinct = 0;
    let effected = wait_until("every message to have its effect", size.patience, async || {
        distinct = ledger.distinct(wanted).await.unwrap_or_default();
        distinct == wanted
    });
    effected.await.with_context(|| format!("{distinct} of {wanted} have"))?;
    let took = began.elapsed();
    straight.publish(plan.late.iter().map(|number| ids[*number].as_str())).await?;
    end.send_replace(());
    let (mut crew, kills) = tormenting.await??;

    // A message that died with its claim comes again when the lease has ended; its tiers drain into the work queue, and that into nothing.
    all_are_signed(&flow, &ids, size.patience).await.with_context(|| crew.last_words())?;
    let settled = wait_until("every queue to be empty and nothing to be held", PATIENCE, async || {
        is_empty(&flow).await && crew.is_idle().await && is_empty(&flow).await
    });
    settled.await.with_context(|| crew.last_words())?;
    crew.stop().await?;
    wait_until("every queue to be empty when no downstream lives", PATIENCE, async || is_empty(&flow).await).await?;

    let (effects, counted) = (ledger.effects().await?, crew.possible_duplicates()?);
    ensure!(effects.len() == ids.len() && ids.iter().all(|id| effects.contains_key(id)), "{} had effects", effects.len());
    let extra = explained(&effects, &counted, &kills)?;
    let possible: u64 = counted.values().sum();
    ensure!(!kills.is_empty() && extra as u64 <= possible, "{} kills, {extra} extra effects, {possible} counted", kills.len());
    let published = plan.first.len() + plan.late.len();
    let rate = u128::from(wanted) * 1_000 / took.as_millis().max(1);
    println!(
        "{published} publications of {wanted} messages over {REPLICAS} replicas, {} kills: all effects after {:.1} s ({rate} a second), \
         {extra} extra effects, {possible} possible duplicates counted",
        kills.len(),
        took.as_secs_f64(),
    );
    flow.no_invariant_was_violated()?;
    flow.finish().await
}

fn seed() -> anyhow::Result<Option<u64>> {
    let Ok(text) = std::env::var("COUNTERSIGN_SEED") else { return Ok(None) };
    text.parse().map(Some).with_context(|| format!("COUNTERSIGN_SEED is {text:?}: give a whole number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_five_thousand_over_three_replicas_have_one_effect_each() -> anyhow::Result<()> {
    let size = Size { messages: 5_000, gaps_ms: 1_000..=3_000, patience: 2 * PATIENCE };
    crowd("crowd", seed()?.unwrap_or(SHORT_SEED), size).await
}

/// `COUNTERSIGN_SEED` repeats a run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_a_hundred_thousand_over_three_replicas_have_one_effect_each() -> anyhow::Result<()> {
    if std::env::var_os("COUNTERSIGN_LONG").is_none() {
        println!("skipped: this one takes minutes; run it with tests/run --long, or COUNTERSIGN_LONG=1");
        return Ok(());
    }
    let seed = seed()?.unwrap_or_else(|| fastrand::u64(1..1_000_000));
    crowd("crowd_long", seed, Size { messages: 100_000, gaps_ms: 3_000..=9_000, patience: Duration::from_mins(40) }).await
}
