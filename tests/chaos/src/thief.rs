//! Takes messages out of the work queue and loses them, so that there is something to send again.

use std::ops::RangeInclusive;
use std::time::Duration;

use countersign_launcher::{SUBSCRIPTION, wait_until};
use countersign_wire::names;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt as _;

use crate::stage::{Stage, VHOST};
use crate::tally::Tally;

/// Between two thefts, milliseconds.
const GAP_MS: RangeInclusive<u64> = 500..=2_500;
/// Messages lost by one theft, at most.
const LOOT: RangeInclusive<u64> = 1..=12;
/// How long a thief stays, and how long the broker may take to let it in.
const STAY: Duration = Duration::from_secs(1);
const ENTRY: Duration = Duration::from_secs(3);
/// What it holds unsettled; probes and messages sent again go back when it leaves.
const HANDS: u16 = 50;

/// Steals until the faults are over.
///
/// # Errors
/// Never; the broker being away is no matter to a thief.
pub async fn steal(stage: &Stage, seed: u64, tally: &Tally) -> anyhow::Result<()> {
    let mut random = fastrand::Rng::with_seed(seed);
    while !tally.is_over() {
        sleep(Duration::from_millis(random.u64(GAP_MS))).await;
        let loot = random.u64(LOOT);
        // Nothing is stolen while the broker is away.
        let _ = visit(stage, loot, tally).await;
    }
    Ok(())
}

async fn visit(stage: &Stage, loot: u64, tally: &Tally) -> anyhow::Result<()> {
    let url = stage.broker.amqp_url(VHOST);
    let connection = timeout(ENTRY, Connection::connect(&url, ConnectionProperties::default())).await??;
    let work = async {
        let channel = connection.create_channel().await?;
        channel.basic_qos(HANDS, BasicQosOptions::default()).await?;
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        let mut deliveries = channel.basic_consume(SUBSCRIPTION.into(), "thief".into(), options, none).await?;
        let mut taken = 0;
        while taken < loot {
            let Some(delivery) = deliveries.next().await.transpose()? else { break };
            if is_first_attempt(&delivery) {
                delivery.acker.ack(BasicAckOptions::default()).await?;
                taken += 1;
                tally.note_stolen(1);
            }
        }
        anyhow::Ok(())
    };
    let _ = timeout(STAY, work).await;
    // What is in hand goes back to the queue when the connection has ended.
    let _ = timeout(ENTRY, connection.close(200, "done".into())).await;
    let gone = async || !connection.status().connected();
    let _ = wait_until("the thief to be gone", ENTRY, gone).await;
    Ok(())
}

/// Neither a probe nor sent again: a message is stolen only once, so that its resends are not used up.
fn is_first_attempt(delivery: &Delivery) -> bool {
    let headers = delivery.properties.headers().as_ref().map(FieldTable::inner);
    let number = |name: &str| headers.and_then(|headers| headers.get(name)?.as_long_long_int());
    let is_probe = headers.is_some_and(|headers| headers.contains_key(names::PROBE));
    !is_probe && number(names::ATTEMPT).unwrap_or(1) == 1
}
