//! Upstream dies after the commit and before the publish, while `countersign send` waits for its answer. The command goes on by its
//! own patience; the next upstream adopts what was committed and never published.

use countersign_launcher::Which;

use crate::faults::{MOMENT, Scene, Struck};
use crate::schedule::Fault;
use crate::sender::commits;

const POINT: &str = "upstream.after_store";

/// Dies at the commit that follows so many orders.
pub fn failpoint(orders: u32, sent: u64) -> String {
    format!("{POINT}={}*off->1*return", commits(orders, sent))
}

pub async fn strike(scene: &mut Scene<'_>) -> anyhow::Result<Struck> {
    let died = scene.stage.system.dies_at(Which::Upstream, POINT, MOMENT).await;
    let struck = |times, evidence| Struck { fault: Fault::UpstreamKilled, times, evidence, book: "upstream's log" };
    if let Err(why) = died {
        return Ok(struck(0, format!("{why:#}")));
    }
    let sent = scene.tally.sent();
    scene.stage.system.start(Which::Upstream, "").await?;
    Ok(struck(1, format!("its log says `failpoint hit: {POINT}`, {sent} orders were answered; started again")))
}
