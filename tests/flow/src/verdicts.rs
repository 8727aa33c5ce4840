//! What callback's history says of a verdict, and what makes it come to one.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use countersign_delivery::check::{Check, CheckBatch};
use countersign_delivery::{Attempt, Fingerprint, MessageId, SubscriptionName, Timestamp, UpstreamName};
use countersign_launcher::Which;
use countersign_wire::proto::get_message_request::By;
use countersign_wire::{checks, proto};
use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};

use crate::Flow;

/// The queue of due checks.
const CHECKS: &str = "countersign.checks";

/// One line of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// `resending`, `resent`, `parked`, `done`, `failed`.
    pub what: String,
    /// The reason.
    pub why: String,
    /// The try concerned, within its epoch.
    pub attempt: u32,
}

impl Flow {
    /// The history of one delivery, oldest first.
    ///
    /// # Errors
    /// When callback does not know it.
    pub async fn told(&self, id: &str, subscription: &str) -> anyhow::Result<Vec<Said>> {
        let request = proto::GetDeliveryRequest { message_id: id.to_owned() };
        let deliveries = self.callback().await?.get_delivery(request).await?.into_inner().deliveries;
        let delivery = deliveries.into_iter().find(|delivery| delivery.subscription == subscription);
        let lines = delivery.with_context(|| format!("callback knows nothing of {id} for {subscription}"))?.history;
        let said = |line: proto::HistoryLine| {
            let attempt = line.attempt.unwrap_or_default().number;
            Said { what: line.what, why: line.detail, attempt }
        };
        Ok(lines.into_iter().map(said).collect())
    }

    /// Asserts that a message was sent again once to this subscription, by evidence that begins with these words, and then signed.
    ///
    /// # Errors
    /// When its history says something else.
    pub async fn resent_once_because(&self, id: &str, subscription: &str, why: &str) -> anyhow::Result<()> {
        let told = self.told(id, subscription).await?;
        let resends: Vec<&Said> = told.iter().filter(|said| said.what == "resending").collect();
        ensure!(resends.len() == 1 && resends[0].why.starts_with(why), "{id} for {subscription}: {told:?}");
        ensure!(told.iter().all(|said| said.attempt <= 2), "{id} for {subscription}: an attempt was spent: {told:?}");
        ensure!(told.last().is_some_and(|said| said.what == "done"), "{id} for {subscription}: {told:?}");
        Ok(())
    }

    /// Asserts that nothing was ever ordered for this delivery.
    ///
    /// # Errors
    /// When its history says something else.
    pub async fn never_resent(&self, id: &str, subscription: &str) -> anyhow::Result<()> {
        let told = self.told(id, subscription).await?;
        ensure!(!told.iter().any(|said| said.what.starts_with("rese")), "{id} for {subscription}: {told:?}");
        Ok(())
    }

    /// Asserts that the last thing that was said of a delivery is that it is left for a human, and why.
    ///
    /// # Errors
    /// When its history says something else.
    pub async fn parked_because(&self, id: &str, subscription: &str, why: &str) -> anyhow::Result<()> {
        let told = self.told(id, subscription).await?;
        let last = told.last().is_some_and(|said| said.what == "parked" && said.why == why);
        ensure!(last, "{id} for {subscription} is not parked because of {why}: {told:?}");
        Ok(())
    }

    /// Puts another figure into the configuration of every service that has it, before they are started.
    ///
    /// # Errors
    /// When none has it.
    pub fn figure(&self, key: &str, value: u64) -> anyhow::Result<()> {
        let (mut found, beginning) = (false, format!("{key} ="));
        for which in Which::ALL {
            let file = self.ground.path(&format!("{}.toml", which.name()));
            let text = std::fs::read_to_string(&file)?;
            let lines = text.lines().map(|line| {
                let other = line.starts_with(&beginning);
                found |= other;
                if other { format!("{key} = {value}") } else { line.to_owned() }
            });
            let text = lines.collect::<Vec<_>>().join("\n") + "\n";
            std::fs::write(&file, text)?;
        }
        ensure!(found, "no configuration has {key}");
        Ok(())
    }

    /// A check of the first try of a message as upstream has stored it.
    ///
    /// # Errors
    /// When upstream does not know it.
    pub async fn check_of(&self, id: &str) -> anyhow::Result<Check> {
        let request = proto::GetMessageRequest { by: Some(By::Id(id.to_owned())), ..Default::default() };
        let stored = self.upstream().await?.get_message(request).await?.into_inner();
        let message = stored.message.context("no message")?;
        let required = stored.required.iter().map(|name| SubscriptionName::new(name)).collect::<Result<_, _>>()?;
        Ok(Check {
            message_id: MessageId::parse(id)?,
            fingerprint: Fingerprint::new(message.fingerprint.to_vec())?,
            attempt: Attempt::FIRST,
            waits: 0,
            sent_at: Timestamp::from_millis(stored.sent_at_ms),
            required,
            marks: Vec::new(),
            trace: None,
        })
    }

    /// Publishes checks as due, in one batch.
    ///
    /// # Errors
    /// When the broker does not take it.
    pub async fn checks_are_due(&self, checks: Vec<Check>) -> anyhow::Result<()> {
        let (_connection, channel) = self.channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let body = checks::encode(&CheckBatch { upstream: UpstreamName::new("shop")?, checks });
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default().with_delivery_mode(2));
        channel.basic_publish("".into(), CHECKS.into(), options, &body, properties).await?.await?;
        Ok(())
    }

    /// How many checks callback has judged so.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn judged(&self, verdict: &str) -> anyhow::Result<f64> {
        let label = format!("verdict=\"{verdict}\"");
        self.system.look().metric(Which::Callback, "countersign_checks_total", &label).await
    }

    /// The latest try of every delivery, by message.
    ///
    /// # Errors
    /// When callback does not answer.
    pub async fn attempts(&self) -> anyhow::Result<BTreeMap<String, u32>> {
        let deliveries = self.deliveries().await?;
        let number = |delivery: &proto::Delivery| delivery.attempt.unwrap_or_default().number;
        Ok(deliveries.iter().map(|delivery| (delivery.message_id.clone(), number(delivery))).collect())
    }
}
