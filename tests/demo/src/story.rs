//! What happens, in order: orders flow, the queue is purged under them, and what was lost comes again.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use countersign_launcher::{SUBSCRIPTION, Which};
use serde_json::json;

use crate::outcome::Outcome;
use crate::signatures;
use crate::stage::{Options, Stage, patience};

/// The shop needs so long for one order, milliseconds: long enough that a queue builds up.
const HANDLING_MS: u64 = 20;
/// How often progress is printed.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Effects before the queue is purged: the flow is in full swing by then.
const EFFECTS_BEFORE_PURGE: u64 = 50;
/// The purge waits until so many messages lie in the queue, so that it really loses something.
const LOST_AT_LEAST: u32 = 50;

pub async fn tell(options: &Options) -> anyhow::Result<Outcome> {
    let give_up = Instant::now() + patience(options);
    println!("starting servers and services …");
    let stage = Stage::set(options).await?;
    stage.system.behave(&json!({"delay_ms": HANDLING_MS})).await?;
    let file = stage.write_orders(options.orders)?;
    println!("sending {} orders: countersign send --file orders.jsonl --id-field order_id --type order.created", options.orders);
    let sender = stage.send(&file)?;
    let purged = purge_once(&stage, give_up).await?;
    println!("the work queue {SUBSCRIPTION} was purged: {purged} messages that the broker had confirmed are gone");
    let status = sender.wait(give_up.saturating_duration_since(Instant::now())).await.context("sending the file")?;
    let sent = serde_json::from_str(&sender.log_text())
        .with_context(|| format!("countersign send ended with {status}: {}", sender.log_text()))?;
    stage.system.behave(&json!({})).await?;
    let timed_out = watch(&stage, options, give_up).await?;
    let outcome = gather(&stage, options, sent, purged, timed_out).await?;
    stage.clear().await?;
    Ok(outcome)
}

/// Purges the work queue once, when the flow is in full swing; returns how many messages that lost.
async fn purge_once(stage: &Stage, give_up: Instant) -> anyhow::Result<u32> {
    loop {
        let flowing = stage.system.effects().await?.distinct >= EFFECTS_BEFORE_PURGE;
        if flowing && stage.broker.queue_depth(&stage.vhost, SUBSCRIPTION).await? >= LOST_AT_LEAST {
            return stage.broker.purge(&stage.vhost, SUBSCRIPTION).await;
        }
        if Instant::now() >= give_up {
            bail!("the queue never held {LOST_AT_LEAST} messages, so nothing was lost and nothing shown");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Prints progress until every order is signed for or parked; true when patience ended first.
async fn watch(stage: &Stage, options: &Options, give_up: Instant) -> anyhow::Result<bool> {
    let orders = u64::from(options.orders);
    let begun = Instant::now();
    loop {
        let (effects, signed) = (stage.system.effects().await?, signatures::read(&stage.system).await?);
        let (done, parked, resent) = (signed.count("done"), signed.count("parked"), signed.resent);
        let at = begun.elapsed().as_secs();
        println!(
            "{at:>4} s  processed {:>6}   signed {done:>6}   sent again {resent:>5}   parked {parked}   of {orders}",
            effects.distinct
        );
        if done + parked >= orders {
            return Ok(false);
        }
        if Instant::now() >= give_up {
            return Ok(true);
        }
        tokio::time::sleep(TELL_EVERY).await;
    }
}

async fn gather(
    stage: &Stage,
    options: &Options,
    sent: serde_json::Value,
    purged: u32,
    timed_out: bool,
) -> anyhow::Result<Outcome> {
    let mut violations = 0.0;
    for which in Which::ALL {
        violations += stage.system.metric(which, "countersign_invariant_violations_total").await?;
    }
    Ok(Outcome {
        orders: u64::from(options.orders),
        accepted: sent["accepted"].as_u64().unwrap_or(0),
        refused: sent["rejected"].as_u64().unwrap_or(0),
        purged: u64::from(purged),
        effects: stage.system.effects().await?,
        signatures: signatures::read(&stage.system).await?,
        possible_duplicates: stage.system.metric(Which::Downstream, "countersign_possible_duplicates_total").await?,
        violations,
        timed_out,
    })
}
