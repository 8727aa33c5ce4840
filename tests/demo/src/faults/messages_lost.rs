//! The work queue is purged: what the broker had confirmed is gone. Nobody signs, callback notices, upstream sends again.

use countersign_launcher::SUBSCRIPTION;

use serde_json::json;

use crate::faults::{Scene, Struck};
use crate::schedule::Fault;
use crate::sender::Tally;
use crate::stage::HANDLING_MS;

/// The purge waits until so many messages lie in the queue, so that it really loses something.
const LOST_AT_LEAST: u32 = 50;
/// Before the purge the shop needs so long for one order, milliseconds: what it takes fast never lies in a queue.
const SLOW_MS: u64 = 200;
/// If that was not enough, so long: hardly anything must have its effect meanwhile, since downstream dies at a count of effects.
const DAWDLE_MS: u64 = 1_000;

/// Lets a queue build up while the point is approached.
pub async fn prepare(scene: &Scene<'_>) -> anyhow::Result<()> {
    scene.look.behave(&json!({"delay_ms": SLOW_MS})).await
}

pub async fn strike(scene: &mut Scene<'_>) -> anyhow::Result<Struck> {
    let (broker, vhost) = (&scene.stage.broker, &scene.stage.vhost);
    let full = async || broker.queue_depth(vhost, SUBSCRIPTION).await.is_ok_and(|depth| depth >= LOST_AT_LEAST);
    let struck = |times, evidence| Struck { fault: Fault::MessagesLost, times, evidence, book: "the broker" };
    if !full().await {
        scene.look.behave(&json!({"delay_ms": DAWDLE_MS})).await?;
    }
    let filled = scene.moment("messages in the work queue", full).await;
    scene.look.behave(&json!({"delay_ms": HANDLING_MS})).await?;
    if !filled {
        return Ok(struck(0, format!("the queue never held {LOST_AT_LEAST} messages")));
    }
    let lost = u64::from(broker.purge(vhost, SUBSCRIPTION).await?);
    Tally::add(&scene.tally.lost, lost);
    Ok(struck(lost, format!("{lost} messages that it had confirmed are gone")))
}
