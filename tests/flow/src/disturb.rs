//! What tests do to the broker behind the services' back.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use countersign_launcher::{BINDING, SUBSCRIPTION, Which, wait_until};
use countersign_wire::{names, proto, receipts};
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use prost::Message as _;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;

use crate::{Flow, PATIENCE};

impl Flow {
    pub(crate) async fn channel(&self) -> anyhow::Result<(Connection, Channel)> {
        let connection = Connection::connect(&self.ground.amqp_url(), ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        Ok((connection, channel))
    }

    /// Takes the work queue's binding away.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn unbind_work_queue(&self) -> anyhow::Result<()> {
        let (_connection, channel) = self.channel().await?;
        channel.queue_unbind(SUBSCRIPTION.into(), "orders".into(), BINDING.into(), FieldTable::default()).await?;
        Ok(())
    }

    /// Puts it back.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn bind_work_queue(&self) -> anyhow::Result<()> {
        let (_connection, channel) = self.channel().await?;
        let options = QueueBindOptions::default();
        channel.queue_bind(SUBSCRIPTION.into(), "orders".into(), BINDING.into(), options, FieldTable::default()).await?;
        Ok(())
    }

    /// Publishes to the work queue what claims to be a known message, with this fingerprint.
    ///
    /// # Errors
    /// When the broker does not take it.
    pub async fn forge(&self, id: &str, fingerprint: &str) -> anyhow::Result<()> {
        let (_connection, channel) = self.channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let headers = BTreeMap::from([
            (names::WIRE.into(), AMQPValue::LongInt(1)),
            (names::FINGERPRINT.into(), AMQPValue::LongString(LongString::from(fingerprint.as_bytes()))),
            (names::SENT_AT.into(), AMQPValue::LongLongInt(1_700_000_000_000)),
        ]);
        let properties = BasicProperties::default()
            .with_message_id(id.into())
            .with_app_id("shop".into())
            .with_type("order.created".into())
            .with_delivery_mode(2)
            .with_headers(FieldTable::from(headers));
        let options = BasicPublishOptions::default();
        channel.basic_publish("".into(), SUBSCRIPTION.into(), options, b"{\"order\":\"forged\"}", properties).await?.await?;
        Ok(())
    }

    /// A consumer that takes every message of the work queue and loses it, but signs probes as a healthy one would. Stop downstream first.
    ///
    /// # Errors
    /// When the broker does not let it consume.
    pub async fn lose_everything(&self) -> anyhow::Result<JoinHandle<anyhow::Result<()>>> {
        let (connection, channel) = self.channel().await?;
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let mut stolen = channel.basic_consume(SUBSCRIPTION.into(), "thief".into(), options, FieldTable::default()).await?;
        Ok(tokio::spawn(async move {
            let _keep = connection;
            while let Some(delivery) = stolen.next().await {
                let delivery = delivery?;
                let probe = delivery
                    .properties
                    .headers()
                    .as_ref()
                    .and_then(|headers| headers.inner().get(names::PROBE)?.as_long_long_int());
                let Some(number) = probe else { continue };
                let answer = proto::ProbeAnswer { subscription: 0, retry_delay_ms: 0, number: u64::try_from(number)? };
                let batch = proto::ReceiptBatch {
                    version: names::VERSION,
                    subscriptions: vec![SUBSCRIPTION.into()],
                    probes: vec![answer],
                    ..Default::default()
                };
                let body = batch.encode_to_vec();
                ensure!(receipts::decode(None, body.clone().into()).is_ok(), "the answer is well formed");
                let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
                channel.basic_publish("".into(), "countersign.receipts".into(), options, &body, properties).await?.await?;
            }
            Ok(())
        }))
    }

    /// Waits until downstream has settled so many deliveries: their receipts are confirmed by then.
    ///
    /// # Errors
    /// When it has not after [`PATIENCE`].
    pub async fn deliveries_settled(&self, deliveries: u32) -> anyhow::Result<()> {
        let name = "countersign_consume_total";
        let settled =
            async || self.system.metric(Which::Downstream, name).await.is_ok_and(|count| count >= f64::from(deliveries));
        wait_until("the deliveries to be settled", PATIENCE, settled).await
    }

    /// `RedriveDelivery`, as the command would.
    ///
    /// # Errors
    /// When callback refuses.
    pub async fn resend_by_hand(&self, id: &str) -> anyhow::Result<()> {
        let request = proto::RedriveDeliveryRequest { message_id: id.to_owned(), by: "a test".into(), ..Default::default() };
        let results = self.callback().await?.redrive_delivery(request).await?.into_inner().results;
        let first = results.first().context("no result")?;
        ensure!(first.result == "resent" || first.result == "ordered", "{first:?}");
        Ok(())
    }
}
