//! What happens, in order: orders flow, everything is broken under them, and each is processed once all the same.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, bail};
use countersign_launcher::{SUBSCRIPTION, Which, redis_answers};
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use crate::faults::{Failpoints, Scene, Struck};
use crate::metrics::Scraped;
use crate::options::Options;
use crate::outcome::Outcome;
use crate::quiet;
use crate::schedule::{self, Due, Fault};
use crate::sender::{Sender, Tally};
use crate::signatures;
use crate::stage::{HANDLING_MS, Stage};
use crate::teller::Teller;

/// How often it is asked whether everything is signed for.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// In the log of a service that has seen an invariant violated.
const VIOLATION: &str = "an invariant of the protocol does not hold";

/// Plays everything and gathers the books.
///
/// # Errors
/// When a server or service cannot be started, or does not come back.
pub async fn tell(options: &Options) -> anyhow::Result<Outcome> {
    let give_up = Instant::now() + Duration::from_secs(options.patience_s);
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(1..100_000));
    let (points, left_out) = points(options, seed);
    announce(options, seed, &points, &left_out);
    let mut stage = timeout_at(give_up, raise(options, &points)).await.context("the patience of --patience-s ended")??;
    let scraped = match &options.metrics {
        Some(_) => Some(Scraped::start(&stage, options.without_callback).await?),
        None => None,
    };
    let (tally, teller) = (Tally::default(), Teller::new(options.orders)?);
    teller.say(&format!("sending {} orders with `countersign send --file`", options.orders));
    let look = stage.system.look().clone();
    let mut scene = Scene {
        stage: &mut stage,
        look: look.clone(),
        orders: options.orders,
        tally: &tally,
        teller: &teller,
        struck: Vec::new(),
    };
    let playing = timeout_at(give_up, play(options, &mut scene, &points));
    let timed_out = tokio::select! {
        played = playing => match played {
            Ok(played) => { played?; false }
            Err(_) => true,
        },
        never = teller.tell(&look, &tally) => match never {},
    };
    teller.finish();
    if let (Some(scraped), Some(file)) = (&scraped, &options.metrics) {
        scraped.draw(file, Duration::from_millis(options.check_delay_ms)).await?;
        println!("what the overview dashboard shows of it is drawn in {}", file.display());
    }
    let (struck, took) = (scene.struck, teller.elapsed());
    let outcome = gather(&stage, options, &tally, struck).await?;
    let outcome = Outcome { seed, left_out, timed_out, took, ..outcome };
    let kept = outcome.is_unexpected().then(|| stage.keep());
    stage.clear().await?;
    Ok(Outcome { kept, ..outcome })
}

/// The points of this run, and what is left out of it and why.
fn points(options: &Options, seed: u64) -> (Vec<Due>, Vec<(Fault, &'static str)>) {
    let mut left_out = Vec::new();
    if options.without_callback {
        left_out.push((Fault::CallbackKilled, "callback is not started"));
        left_out.push((Fault::ReceiptsLost, "callback is not started"));
    }
    if options.amqp_url.is_some() {
        left_out.push((Fault::BrokerRestarted, "the broker is yours"));
    }
    let out = |due: &Due| left_out.iter().any(|(fault, _)| *fault == due.fault);
    let points = schedule::draw(seed, options.orders).into_iter().filter(|due| !out(due)).collect();
    (points, left_out)
}

fn announce(options: &Options, seed: u64, points: &[Due], left_out: &[(Fault, &'static str)]) {
    println!("{} orders, seed {seed} (the same points again: --seed {seed})", options.orders);
    if options.without_callback {
        println!("negative control: callback is not started, so nobody looks for what is lost");
    }
    for Due { fault, at } in points {
        let unit = if *fault == Fault::UpstreamKilled { "orders sent" } else { "effects" };
        println!("  at {at:>6} {unit:<11}  {fault}");
    }
    for (fault, why) in left_out {
        println!("  left out               {fault}: {why}");
    }
    if options.amqp_url.is_some() {
        println!(
            "in the broker that you named the queues {SUBSCRIPTION} and countersign.* are declared; {SUBSCRIPTION} will be purged"
        );
        println!("and unbound for a while, countersign.receipts purged; they stay there when the demo has ended");
    }
    println!("starting servers and services …");
}

/// Starts servers and services; upstream and downstream carry the points at which they die.
async fn raise(options: &Options, points: &[Due]) -> anyhow::Result<Stage> {
    if let Some(url) = &options.redis_url {
        redis_answers(url).await.context("the Redis of --redis-url cannot be used")?;
    }
    let mut stage = Stage::set(options).await?;
    if options.amqp_url.is_some() {
        refuse_a_used_queue(&stage).await?;
    }
    let failpoints = Failpoints::of(points, options.orders);
    if !options.without_callback {
        stage.system.start(Which::Callback, "").await?;
    }
    stage.system.start(Which::Downstream, &failpoints.downstream).await?;
    stage.system.start(Which::Upstream, &failpoints.upstream).await?;
    stage.system.behave(&json!({"delay_ms": HANDLING_MS})).await?;
    Ok(stage)
}

/// What lies in the user's broker from elsewhere would be purged, and counted as this demo's.
async fn refuse_a_used_queue(stage: &Stage) -> anyhow::Result<()> {
    stage.broker.answers(&stage.vhost).await.context("the broker of --amqp-url cannot be used")?;
    // A queue that is not there is as good as an empty one.
    let depth = stage.broker.queue_depth(&stage.vhost, SUBSCRIPTION).await.unwrap_or_default();
    if depth > 0 {
        bail!(
            "the queue {SUBSCRIPTION} of that broker holds {depth} messages, which this demo would purge: name another virtual host"
        );
    }
    Ok(())
}

/// Orders flow, faults strike, and the end is awaited.
async fn play(options: &Options, scene: &mut Scene<'_>, points: &[Due]) -> anyhow::Result<()> {
    let sender = Sender {
        orders: options.orders,
        dir: scene.stage.dir().to_owned(),
        upstream: scene.stage.system.grpc_url(Which::Upstream),
        look: scene.look.clone(),
        tally: scene.tally,
    };
    tokio::try_join!(sender.send_all(), scene.strike_all(points))?;
    scene.stage.system.behave(&json!({})).await?;
    if options.without_callback {
        scene.teller.say("everything is sent; waiting until nothing moves any more");
        let still = quiet::nothing_moves(scene.stage, Duration::from_millis(options.check_delay_ms)).await?;
        scene.teller.say(&format!(
            "nothing moves any more: work queue and retry tiers are empty, nothing is in the shop's hands, no effect for {:.0} s",
            still.as_secs_f64()
        ));
        return Ok(());
    }
    scene.teller.say("everything is sent; waiting until every order is signed for");
    all_signed(options, scene).await
}

/// Waits until callback has a receipt for every order, or has parked it.
async fn all_signed(options: &Options, scene: &Scene<'_>) -> anyhow::Result<()> {
    let orders = u64::from(options.orders);
    loop {
        // The shop is asked first: while it lacks orders, reading thousands of deliveries is work for nothing.
        let parked = signatures::read(&scene.stage.system, &["parked"]).await?.count("parked");
        if scene.look.counts().await?.orders + parked >= orders {
            let signed = signatures::read(&scene.stage.system, &[]).await?;
            if signed.count("done") + signed.count("parked") >= orders {
                return Ok(());
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn gather(stage: &Stage, options: &Options, tally: &Tally, struck: Vec<Struck>) -> anyhow::Result<Outcome> {
    let mut violations = 0;
    for which in Which::ALL.into_iter().filter(|which| *which != Which::Callback || !options.without_callback) {
        violations += stage.system.log_of(which)?.matches(VIOLATION).count();
    }
    let signatures = if options.without_callback { None } else { Some(signatures::read(&stage.system, &[]).await?) };
    Ok(Outcome {
        orders: u64::from(options.orders),
        accepted: tally.accepted.load(Ordering::Relaxed),
        known: tally.known.load(Ordering::Relaxed),
        refused: tally.refused.load(Ordering::Relaxed),
        shop: stage.system.look().counts().await?,
        signatures,
        possible_duplicates: stage.system.metric(Which::Downstream, "countersign_possible_duplicates_total").await?,
        violations,
        struck,
        ..Outcome::default()
    })
}
