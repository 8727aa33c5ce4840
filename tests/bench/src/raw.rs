//! The raw limit: the least that any system on this broker must do. Each message is published persistent to a quorum queue and confirmed,
//! consumed and acked; nothing else happens to it.
//!
//! It is driven as well as the client can be: publishes in chunks, a window of confirms, multiple-acks.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures::StreamExt as _;
use futures::future::join_all;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, PublisherConfirm};

use crate::load::Pace;
use crate::tally;

const QUEUE: &str = "bench.raw";
/// Publishes issued together.
const CHUNK: u32 = 128;
/// Publishes without confirm.
const WINDOW: usize = 1_000;
const PREFETCH: u16 = 1_000;
/// Deliveries acked at once.
const ACK_EACH: u64 = 256;
/// For one message to come.
const NEXT: Duration = Duration::from_secs(30);

/// What one run took.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    /// From the first publish until the last ack was sent and the last confirm had come.
    pub took: Duration,
    /// From the publish to the delivery, microseconds, of each message in order.
    pub delays_us: Vec<u64>,
}

impl Raw {
    /// Messages a second.
    #[allow(clippy::cast_precision_loss, reason = "a count of messages; far below 2^52")]
    pub(crate) fn per_second(&self) -> f64 {
        self.delays_us.len() as f64 / self.took.as_secs_f64()
    }
}

/// Sends so many messages through one quorum queue; `per_second` at an even pace, without it as fast as they go.
pub(crate) async fn run(amqp: &str, messages: u32, body_bytes: usize, per_second: Option<u32>) -> anyhow::Result<Raw> {
    let publishing = connection(amqp).await?;
    let consuming = connection(amqp).await?;
    let (publisher, consumer) = (publishing.create_channel().await?, consuming.create_channel().await?);
    publisher.confirm_select(ConfirmSelectOptions::default()).await?;
    let quorum = [("x-queue-type".into(), AMQPValue::LongString("quorum".into()))];
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    consumer.queue_declare(QUEUE.into(), durable, FieldTable::from(std::collections::BTreeMap::from(quorum))).await?;
    let begun = Instant::now();
    let consume = consume(&consumer, messages);
    let publish = async {
        match per_second {
            None => publish(&publisher, messages, body_bytes).await,
            Some(rate) => publish_evenly(&publisher, messages, body_bytes, rate).await,
        }
    };
    let ((), delays_us) = tokio::try_join!(publish, consume)?;
    let took = begun.elapsed();
    // The empty queue stays: this broker crashes a channel whose queue is deleted while its last acks are on their way.
    publishing.close(200, "done".into()).await?;
    consuming.close(200, "done".into()).await?;
    Ok(Raw { took, delays_us })
}

async fn connection(amqp: &str) -> anyhow::Result<Connection> {
    Ok(Connection::connect(amqp, ConnectionProperties::default()).await?)
}

fn properties() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2).with_content_type("application/octet-stream".into())
}

async fn publish(channel: &Channel, messages: u32, body_bytes: usize) -> anyhow::Result<()> {
    let mut window = VecDeque::with_capacity(WINDOW);
    let mut left = messages;
    while left > 0 {
        let chunk = left.min(CHUNK);
        left -= chunk;
        let bodies: Vec<Vec<u8>> = (0..chunk).map(|_| tally::body(body_bytes)).collect();
        for issued in issue(channel, &bodies).await {
            window.push_back(issued?);
        }
        while window.len() > WINDOW - CHUNK as usize || left == 0 {
            let Some(oldest) = window.pop_front() else { break };
            confirmed(oldest.await?)?;
        }
    }
    Ok(())
}

async fn publish_evenly(channel: &Channel, messages: u32, body_bytes: usize, per_second: u32) -> anyhow::Result<()> {
    let mut pace = Pace::of(per_second);
    let mut window = VecDeque::new();
    let mut left = messages;
    while left > 0 {
        let due = pace.next().await.min(left);
        left -= due;
        let bodies: Vec<Vec<u8>> = (0..due).map(|_| tally::body(body_bytes)).collect();
        for issued in issue(channel, &bodies).await {
            window.push_back(issued?);
        }
        while window.len() > WINDOW {
            let Some(oldest) = window.pop_front() else { break };
            confirmed(oldest.await?)?;
        }
    }
    for waiting in window {
        confirmed(waiting.await?)?;
    }
    Ok(())
}

/// Publishes these together.
async fn issue(channel: &Channel, bodies: &[Vec<u8>]) -> Vec<lapin::Result<PublisherConfirm>> {
    let options = BasicPublishOptions::default();
    join_all(bodies.iter().map(|body| channel.basic_publish("".into(), QUEUE.into(), options, body, properties()))).await
}

fn confirmed(confirmation: Confirmation) -> anyhow::Result<()> {
    match confirmation {
        Confirmation::Ack(None) => Ok(()),
        other => bail!("the broker did not take a message: {other:?}"),
    }
}

async fn consume(channel: &Channel, messages: u32) -> anyhow::Result<Vec<u64>> {
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let consume = channel.basic_consume(QUEUE.into(), "raw".into(), BasicConsumeOptions::default(), FieldTable::default());
    let mut consumer = consume.await?;
    let mut delays_us = Vec::with_capacity(messages as usize);
    while delays_us.len() < messages as usize {
        let next = tokio::time::timeout(NEXT, consumer.next()).await.context("the broker delivers no more")?;
        let delivery = next.context("the consumer was ended")??;
        delays_us.push(tally::now_us().saturating_sub(tally::sent_at_us(&delivery.data)));
        let seen = delays_us.len() as u64;
        if seen.is_multiple_of(ACK_EACH) || seen == u64::from(messages) {
            channel.basic_ack(delivery.delivery_tag, BasicAckOptions { multiple: true }).await?;
        }
    }
    Ok(delays_us)
}
