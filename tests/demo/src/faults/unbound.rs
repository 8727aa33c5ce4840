//! The work queue loses its binding: the broker returns what is sent meanwhile, and upstream publishes it again until it arrives.

use std::time::Duration;

use countersign_launcher::{BINDING, EXCHANGE, SUBSCRIPTION, Which};

use crate::faults::{Scene, Struck};
use crate::schedule::Fault;
use crate::sender::BEFORE_RESTART;

/// How long it stays unbound after the first return.
const LONGER: Duration = Duration::from_millis(1_500);

pub async fn strike(scene: &mut Scene<'_>) -> anyhow::Result<Struck> {
    let (broker, vhost) = (&scene.stage.broker, &scene.stage.vhost);
    let before = returned(scene).await.unwrap_or_default();
    broker.unbind(vhost, SUBSCRIPTION, EXCHANGE, BINDING).await?;
    scene.teller.say("work queue unbound: what is sent now is returned by the broker");
    scene.tally.release(scene.orders, BEFORE_RESTART);
    scene.moment("a publish to be returned", async || returned(scene).await.is_some_and(|now| now > before)).await;
    tokio::time::sleep(LONGER).await;
    broker.bind(vhost, SUBSCRIPTION, EXCHANGE, BINDING).await?;
    let times = returned(scene).await.unwrap_or_default().saturating_sub(before);
    let evidence = format!("{times} publishes were returned; bound again, they are published again");
    Ok(Struck { fault: Fault::Unbound, times, evidence, book: "upstream's metrics" })
}

/// Publishes of messages that the broker has returned to the upstream that runs now.
async fn returned(scene: &Scene<'_>) -> Option<u64> {
    let text = scene.look.metric(Which::Upstream, "countersign_publish_total", "outcome=\"returned\"").await.ok()?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
    Some(text as u64)
}
