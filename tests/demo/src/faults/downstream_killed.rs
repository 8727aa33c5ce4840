//! Downstream dies when an order has had its effect and nothing is marked or signed. The broker delivers the order again, and the
//! shop's own transaction absorbs it.

use countersign_launcher::Which;

use crate::faults::{MOMENT, Scene, Struck};
use crate::schedule::Fault;

const POINT: &str = "downstream.after_effect";

/// Dies after the effect that follows so many others.
pub fn failpoint(effects: u64) -> String {
    format!("{POINT}={effects}*off->1*return")
}

pub async fn strike(scene: &mut Scene<'_>) -> anyhow::Result<Struck> {
    let died = scene.stage.system.dies_at(Which::Downstream, POINT, MOMENT).await;
    let struck = |times, evidence| Struck { fault: Fault::DownstreamKilled, times, evidence, book: "downstream's log" };
    if let Err(why) = died {
        return Ok(struck(0, format!("{why:#}")));
    }
    let effects = scene.look.counts().await?.effects;
    scene.stage.system.start(Which::Downstream, "").await?;
    Ok(struck(1, format!("its log says `failpoint hit: {POINT}`, at {effects} effects; started again")))
}
