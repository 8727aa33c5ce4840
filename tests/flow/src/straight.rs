//! Publications straight to the work queue, as upstream would make them: in whatever order, and as often, as a test wants.

use std::collections::BTreeMap;

use anyhow::ensure;
use countersign_launcher::SUBSCRIPTION;
use countersign_wire::names;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{BasicProperties, Channel, Confirmation, Connection};

/// Publications whose confirms are awaited together.
const WINDOW: usize = 500;
/// Stands for the hash of what all these messages have in common; ids tell them apart.
const FINGERPRINT: &[u8] = b"0123456789abcdef0123456789abcdef";

/// A connection that publishes to the work queue.
#[derive(Debug)]
pub struct Straight {
    _connection: Connection,
    channel: Channel,
}

impl crate::Flow {
    /// Opens one. The queue has to be there.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn straight(&self) -> anyhow::Result<Straight> {
        let (connection, channel) = self.channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Straight { _connection: connection, channel })
    }
}

impl Straight {
    /// Publishes messages of these ids in this order; one that is there twice is published twice, the same in all.
    ///
    /// # Errors
    /// When the broker does not confirm one.
    pub async fn publish<'a>(&self, ids: impl IntoIterator<Item = &'a str>) -> anyhow::Result<()> {
        let mut unconfirmed = Vec::with_capacity(WINDOW);
        for id in ids {
            let (options, body) = (BasicPublishOptions::default(), format!("{{\"order\":\"{id}\"}}"));
            let publishing = self.channel.basic_publish("".into(), SUBSCRIPTION.into(), options, body.as_bytes(), properties(id));
            unconfirmed.push(publishing.await?);
            if unconfirmed.len() == WINDOW {
                confirmed(unconfirmed.drain(..)).await?;
            }
        }
        confirmed(unconfirmed.into_iter()).await
    }
}

async fn confirmed(unconfirmed: impl Iterator<Item = impl Future<Output = lapin::Result<Confirmation>>>) -> anyhow::Result<()> {
    for confirm in unconfirmed {
        let confirmation = confirm.await?;
        ensure!(matches!(confirmation, Confirmation::Ack(None)), "the broker answered {confirmation:?}");
    }
    Ok(())
}

fn properties(id: &str) -> BasicProperties {
    let headers = BTreeMap::from([
        (names::WIRE.into(), AMQPValue::LongInt(1)),
        (names::FINGERPRINT.into(), AMQPValue::LongString(LongString::from(FINGERPRINT))),
        (names::SENT_AT.into(), AMQPValue::LongLongInt(1_700_000_000_000)),
    ]);
    BasicProperties::default()
        .with_message_id(id.into())
        .with_app_id("shop".into())
        .with_type("order.created".into())
        .with_content_type("application/json".into())
        .with_delivery_mode(2)
        .with_headers(FieldTable::from(headers))
}
