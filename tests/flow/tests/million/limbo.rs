//! Where things vanish: side queues that chosen messages go to, and a consumer whose receipts reach nobody.
//!
//! What is lost ends in a queue that nobody reads. What is to be handled without a receipt is carried into another virtual host, where a second
//! downstream with the same handler and the same Redis takes it, marks it as done, and signs: into a queue that callback never sees.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use countersign_delivery::MessageId;
use countersign_delivery::receipt::Outcome;
use countersign_flow::{Flow, PATIENCE};
use countersign_launcher::{BINDING, EXCHANGE, Ground, Program, Running, SUBSCRIPTION, binary, free_port, wait_until};
use countersign_wire::receipts;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Confirmation, Connection, ConnectionProperties};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;

use super::plan::Fate;

/// Queues of the messages that do not reach the work queue.
const LOST: &str = "lost";
const UNSIGNED: &str = "unsigned";
/// Messages that are carried at a time.
const CARRIED: u16 = 100;

#[derive(Debug)]
pub(super) struct Limbo {
    ground: Ground,
    downstream: Running,
    carrier: JoinHandle<anyhow::Result<()>>,
}

impl Limbo {
    /// Starts the second downstream, and parts the chosen messages from the others. The services must have applied the topology before.
    pub(super) async fn beside(flow: &Flow, test: &str) -> anyhow::Result<Self> {
        let ground = Ground::new(&format!("{test}_limbo")).await?;
        let downstream = start(flow, &ground).await?;
        let (here, there) = (connect(&flow.ground).await?, connect(&ground).await?);
        let channel = here.create_channel().await?;
        for (queue, fate) in [(LOST, Fate::Lost), (UNSIGNED, Fate::Unsigned)] {
            let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
            channel.queue_declare(queue.into(), options, FieldTable::default()).await?;
            bind(&channel, queue, fate).await?;
        }
        bind(&channel, SUBSCRIPTION, Fate::Good).await?;
        channel.queue_unbind(SUBSCRIPTION.into(), EXCHANGE.into(), BINDING.into(), FieldTable::default()).await?;
        Ok(Self { ground, downstream, carrier: tokio::spawn(carry(here, there)) })
    }

    /// Ends the carrying and the second downstream.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        ensure!(!self.carrier.is_finished(), "nothing was carried any more");
        self.carrier.abort();
        self.downstream.terminate()?;
        let status = self.downstream.wait(PATIENCE).await?;
        ensure!(status.success(), "the second downstream ends with {status}");
        Ok(())
    }

    /// The ids of the messages that were lost, as the broker has them.
    pub(super) async fn lost(&self, flow: &Flow) -> anyhow::Result<BTreeSet<MessageId>> {
        let connection = connect(&flow.ground).await?;
        let channel = connection.create_channel().await?;
        let mut lost = BTreeSet::new();
        while let Some(message) = channel.basic_get(LOST.into(), BasicGetOptions { no_ack: true }).await? {
            let id = message.properties.message_id().as_ref().context("a message without an id")?;
            lost.insert(MessageId::parse(id.as_str())?);
        }
        Ok(lost)
    }

    /// The ids of the messages of whose receipts nobody has heard, by those receipts.
    pub(super) async fn unsigned(&self) -> anyhow::Result<BTreeSet<MessageId>> {
        let connection = connect(&self.ground).await?;
        let channel = connection.create_channel().await?;
        let mut unsigned = BTreeSet::new();
        while let Some(message) = channel.basic_get("countersign.receipts".into(), BasicGetOptions { no_ack: true }).await? {
            let receipts = receipts::decode(None, message.data.clone().into())?.receipts;
            let done = receipts.into_iter().filter(|receipt| receipt.outcome == Outcome::Done);
            unsigned.extend(done.map(|receipt| receipt.message_id));
        }
        Ok(unsigned)
    }
}

impl Drop for Limbo {
    fn drop(&mut self) {
        self.carrier.abort();
    }
}

async fn connect(ground: &Ground) -> anyhow::Result<Connection> {
    Ok(Connection::connect(&ground.amqp_url(), ConnectionProperties::default()).await?)
}

async fn bind(channel: &Channel, queue: &str, fate: Fate) -> anyhow::Result<()> {
    let options = QueueBindOptions::default();
    channel.queue_bind(queue.into(), EXCHANGE.into(), fate.routing_key().into(), options, FieldTable::default()).await?;
    Ok(())
}

/// The second downstream: the first one's configuration and directory, another virtual host.
async fn start(flow: &Flow, ground: &Ground) -> anyhow::Result<Running> {
    let (http, grpc) = (free_port()?, free_port()?);
    let downstream = Program::new(binary("journal")?)
        .arg("--config")
        .arg(flow.ground.path("downstream.toml"))
        .env("COUNTERSIGN_BROKER__URL", ground.amqp_url())
        .env("COUNTERSIGN_HTTP__LISTEN", format!("127.0.0.1:{http}"))
        .env("COUNTERSIGN_GRPC__LISTEN", format!("127.0.0.1:{grpc}"))
        .current_dir(flow.ground.dir())
        .log_to(flow.ground.path("limbo.log"))
        .spawn()?;
    let client = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build()?;
    let url = format!("http://127.0.0.1:{http}/health/ready");
    let ready = async || client.get(&url).send().await.is_ok_and(|answer| answer.status().is_success());
    wait_until("the second downstream to be ready", PATIENCE, ready).await?;
    Ok(downstream)
}

/// Carries every message of the side queue into the other virtual host, as it is.
async fn carry(here: Connection, there: Connection) -> anyhow::Result<()> {
    let (from, to) = (here.create_channel().await?, there.create_channel().await?);
    to.confirm_select(ConfirmSelectOptions::default()).await?;
    from.basic_qos(CARRIED, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let mut waiting = from.basic_consume(UNSIGNED.into(), "carrier".into(), options, FieldTable::default()).await?;
    while let Some(delivery) = waiting.next().await {
        let delivery = delivery?;
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = delivery.properties.clone();
        let publishing = to.basic_publish("".into(), SUBSCRIPTION.into(), options, &delivery.data, properties).await?;
        let confirmation = publishing.await?;
        ensure!(matches!(confirmation, Confirmation::Ack(None)), "the broker answered {confirmation:?}");
        delivery.ack(BasicAckOptions::default()).await?;
    }
    Ok(())
}
