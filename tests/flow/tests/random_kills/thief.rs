//! Loses messages on their way to downstream, and receipts on their way to callback, and keeps a book of both.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use countersign_delivery::{Attempt, Outcome};
use countersign_flow::Flow;
use countersign_launcher::SUBSCRIPTION;
use countersign_wire::{names, receipts};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties};
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt as _;

use super::Course;

/// One in so many messages is lost, and one in so many receipts.
const ONE_IN: usize = 20;
/// Between two looks at whether enough is lost.
const GAP: Duration = Duration::from_millis(50);
/// How long one waits in front of an empty queue.
const STAY: Duration = Duration::from_millis(300);
/// Served before everybody else.
const PRIORITY: i32 = 10;
/// What is sent so often is left alone: nobody's tries are to be used up.
const TRIES_MAX: u32 = 2;

/// Something of a message that was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Of which try.
    pub attempt: Attempt,
    /// Whether there has to be another try because of it: a copy, or a receipt for what is done.
    pub is_real: bool,
}

/// All losses, by message.
#[derive(Debug, Default)]
pub struct Book {
    losses: Mutex<BTreeMap<String, Vec<Loss>>>,
}

impl Book {
    fn note(&self, id: &str, loss: Loss) {
        self.losses.lock().unwrap_or_else(PoisonError::into_inner).entry(id.to_owned()).or_default().push(loss);
    }

    /// What was lost of which message.
    pub fn losses(&self) -> BTreeMap<String, Vec<Loss>> {
        self.losses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a thief is after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prey {
    /// Messages in the work queue.
    Messages,
    /// Batches of receipts.
    Receipts,
}

/// Steals its share of what is sent until the faults are over; how much it was.
///
/// # Errors
/// When the broker does not answer, or a receipt cannot be read.
pub async fn steal(flow: &Flow, prey: Prey, course: &Course, book: &Book) -> anyhow::Result<usize> {
    let connection = Connection::connect(&flow.ground.amqp_url(), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(1, BasicQosOptions::default()).await?;
    let mut stolen = 0;
    while !course.is_over() {
        sleep(GAP).await;
        if stolen < course.sent() / ONE_IN {
            stolen += visit(&channel, prey, book).await?;
        }
    }
    Ok(stolen)
}

/// Takes one delivery, and loses it or puts it back; what was lost.
async fn visit(channel: &Channel, prey: Prey, book: &Book) -> anyhow::Result<usize> {
    let queue = if prey == Prey::Messages { SUBSCRIPTION } else { "countersign.receipts" };
    let first = FieldTable::from(BTreeMap::from([("x-priority".into(), AMQPValue::LongInt(PRIORITY))]));
    let mut consumer = channel.basic_consume(queue.into(), "thief".into(), BasicConsumeOptions::default(), first).await?;
    let mut lost = Vec::new();
    // Settled before it leaves: what a consumer holds that leaves may go back to the queue, and would not be lost.
    if let Ok(Some(delivery)) = timeout(STAY, consumer.next()).await {
        let delivery = delivery?;
        lost = losses(prey, &delivery)?;
        if lost.iter().any(|(_, loss)| loss.attempt.number > TRIES_MAX) {
            lost.clear();
        }
        if lost.is_empty() {
            put_back(&delivery).await?;
        } else {
            delivery.acker.ack(BasicAckOptions::default()).await?;
        }
    }
    channel.basic_cancel("thief".into(), BasicCancelOptions::default()).await?;
    if let Ok(Some(late)) = timeout(STAY, consumer.next()).await {
        put_back(&late?).await?;
    }
    for (id, loss) in &lost {
        book.note(id, *loss);
    }
    Ok(lost.len())
}

async fn put_back(delivery: &Delivery) -> anyhow::Result<()> {
    delivery.acker.nack(BasicNackOptions { multiple: false, requeue: true }).await?;
    Ok(())
}

/// What would be lost with a delivery: nothing of a message with a probe.
fn losses(prey: Prey, delivery: &Delivery) -> anyhow::Result<Vec<(String, Loss)>> {
    let properties = &delivery.properties;
    if prey == Prey::Receipts {
        let content_type = properties.content_type().as_ref().map(lapin::types::ShortString::as_str);
        let batch = receipts::decode(content_type, delivery.data.clone().into())?;
        // A batch that comes again was held by a callback that was killed, which may have written it down.
        let is_new = !delivery.redelivered;
        let loss = |receipt: countersign_delivery::receipt::Receipt| {
            let loss = Loss { attempt: receipt.attempt, is_real: is_new && matches!(receipt.outcome, Outcome::Done) };
            (receipt.message_id.to_string(), loss)
        };
        return Ok(batch.receipts.into_iter().map(loss).collect());
    }
    let header = |name: &str| properties.headers().as_ref()?.inner().get(name)?.as_long_long_int();
    if header(names::PROBE).is_some() {
        return Ok(Vec::new());
    }
    let number = |name: &str, or: u32| header(name).and_then(|number| u32::try_from(number).ok()).unwrap_or(or);
    let attempt = Attempt { epoch: number(names::EPOCH, 0), number: number(names::ATTEMPT, 1) };
    let id = properties.message_id().as_ref().map(ToString::to_string);
    Ok(id.map(|id| (id, Loss { attempt, is_real: true })).into_iter().collect())
}
