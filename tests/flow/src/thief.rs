//! Somebody who takes messages out of the work queue beside downstream, and loses them.

use std::time::Duration;

use countersign_launcher::SUBSCRIPTION;
use countersign_wire::names;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use tokio::time::timeout;
use tokio_stream::StreamExt as _;

use crate::Flow;

/// What it holds unsettled; probes and messages sent again go back when it leaves.
const HANDS: u16 = 50;

impl Flow {
    /// Takes messages for so long, or up to `most`, and loses those that come for the first time; how many. The rest goes back.
    ///
    /// # Errors
    /// When the broker does not let it in.
    pub async fn steal(&self, most: usize, stay: Duration) -> anyhow::Result<usize> {
        let (connection, channel) = self.channel().await?;
        channel.basic_qos(HANDS, BasicQosOptions::default()).await?;
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        let mut deliveries = channel.basic_consume(SUBSCRIPTION.into(), "thief".into(), options, none).await?;
        let mut stolen = 0;
        let stealing = async {
            while stolen < most {
                let Some(delivery) = deliveries.next().await.transpose()? else { break };
                if comes_first(&delivery) {
                    delivery.acker.ack(BasicAckOptions::default()).await?;
                    stolen += 1;
                }
            }
            anyhow::Ok(())
        };
        if let Ok(ended) = timeout(stay, stealing).await {
            ended?;
        }
        // Its answer means that every ack before it has been taken, and that the rest has gone back.
        connection.close(200, "done".into()).await?;
        Ok(stolen)
    }
}

/// Neither a probe nor sent again: a message is lost only once, so that its resends are not used up.
fn comes_first(delivery: &Delivery) -> bool {
    let headers = delivery.properties.headers().as_ref().map(FieldTable::inner);
    let number = |name: &str| headers.and_then(|headers| headers.get(name)?.as_long_long_int());
    let is_probe = headers.is_some_and(|headers| headers.contains_key(names::PROBE));
    !is_probe && number(names::ATTEMPT).unwrap_or(1) == 1
}
