//! Receipts are purged while callback is dead: their orders were processed, nobody knows. They are sent again, and downstream signs
//! again without an effect.

use countersign_launcher::Which;

use crate::faults::{Scene, Struck};
use crate::schedule::Fault;

const RECEIPTS: &str = "countersign.receipts";

pub async fn strike(scene: &mut Scene<'_>) -> anyhow::Result<Struck> {
    let (broker, vhost) = (&scene.stage.broker, &scene.stage.vhost);
    let there = async || broker.queue_depth(vhost, RECEIPTS).await.is_ok_and(|depth| depth > 0);
    let waiting = scene.moment("receipts in their queue", there).await;
    let lost = if waiting { broker.purge(vhost, RECEIPTS).await? } else { 0 };
    scene.stage.system.start(Which::Callback, "").await?;
    let evidence = format!("{lost} batches of receipts are gone; callback started again");
    Ok(Struck { fault: Fault::ReceiptsLost, times: u64::from(lost), evidence, book: "the broker" })
}
