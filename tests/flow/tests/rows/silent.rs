//! Silence: of a consumer that is dead, and of one that signs no probes.

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, PATIENCE, Setup, WITNESS, order};
use countersign_launcher::{Extras, SUBSCRIPTION, Which, wait_until};
use countersign_wire::names;
use countersign_wire::proto::NewMessage;
use countersign_wire::proto::SendMessageRequest;
use lapin::message::BasicGetMessage;
use lapin::options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use serde_json::json;
use tokio::time::Instant;

use super::{book_has, ordered};

/// Messages that wait for a dead consumer.
const ORDERS: u32 = 3;
/// When the first probe without an answer is replaced, milliseconds.
const REPLACE_MS: u64 = 500;
/// Probes behind those messages, each sent after twice the time of the one before.
const PROBES: u32 = 5;
/// The queue of a consumer without probes.
const QUEUE: &str = "witness";

on_both!(a_dead_consumer_is_waited_for_and_asked_ever_more_rarely);

async fn a_dead_consumer_is_waited_for_and_asked_ever_more_rarely(test: &str, setup: Setup) -> anyhow::Result<()> {
    let mut flow = Flow::new(test, setup).await?;
    flow.figure("probe_replace_ms", REPLACE_MS)?;
    flow.start(&[Which::Callback, Which::Upstream]).await?;
    let ids = flow.send(0, ORDERS).await?;
    let mut seen = Vec::new();
    let probed = async || {
        let depth = flow.work_queue_depth().await.unwrap_or_default();
        let probes = usize::try_from(depth.saturating_sub(ORDERS)).unwrap_or_default();
        seen.resize_with(probes.max(seen.len()), Instant::now);
        probes >= PROBES as usize
    };
    wait_until("probes to queue behind the messages", PATIENCE, probed).await?;
    let waits: Vec<_> = seen.windows(2).map(|two| two[1] - two[0]).collect();
    // The first two waits together are shorter than the last one alone: 0.5 and 1 of 4 seconds.
    ensure!(waits[0] + waits[1] < waits[3], "the probes were sent after {waits:?}");
    ensure!(ordered(&flow).await? == 0.0, "what waits for its consumer was ordered again");

    flow.start(&[Which::Downstream]).await?;
    flow.all_signed(&ids).await?;
    for id in &ids {
        flow.never_resent(id, SUBSCRIPTION).await?;
    }
    ensure!(ordered(&flow).await? == 0.0, "what had waited was ordered again");
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    book_has(&flow, u64::from(ORDERS), &ids).await?;
    flow.finish().await
}

/// Takes the one message of [`QUEUE`] as a consumer would that is not ours, and signs it as it copies from it.
async fn take_and_sign(flow: &Flow) -> anyhow::Result<String> {
    let connection = Connection::connect(&flow.ground.amqp_url(), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let taken = channel.basic_get(QUEUE.into(), BasicGetOptions { no_ack: true }).await?.context("its queue is empty")?;
    let receipt = receipt_of(&taken)?;
    let (options, body) = (BasicPublishOptions::default(), receipt.to_string());
    let properties = BasicProperties::default().with_content_type(names::JSON.into()).with_delivery_mode(2);
    channel.basic_publish("".into(), "countersign.receipts".into(), options, body.as_bytes(), properties).await?.await?;
    Ok(receipt["message_id"].as_str().unwrap_or_default().to_owned())
}

fn receipt_of(taken: &BasicGetMessage) -> anyhow::Result<serde_json::Value> {
    let properties = &taken.delivery.properties;
    let headers = properties.headers().as_ref().context("no headers")?.inner();
    let text = |name: &str| headers.get(name).and_then(|value| value.as_long_string()).map(ToString::to_string);
    let number =
        |name: &str| headers.get(name).and_then(|value| value.as_long_long_int().or(value.as_long_int().map(Into::into)));
    Ok(json!({
        "message_id": properties.message_id().as_ref().context("no id")?.as_str(),
        "subscription": QUEUE,
        "upstream": properties.app_id().as_ref().context("no upstream")?.as_str(),
        "fingerprint": text(names::FINGERPRINT).context("no fingerprint")?,
        "attempt": number(names::ATTEMPT).unwrap_or(1),
        "sent_at_ms": number(names::SENT_AT).context("no time")?,
        "outcome": "done",
    }))
}

on_both!(a_consumer_without_probes_is_given_its_time_and_then_another_copy);

async fn a_consumer_without_probes_is_given_its_time_and_then_another_copy(test: &str, setup: Setup) -> anyhow::Result<()> {
    let extras = Extras { topology: WITNESS.into(), ..Extras::default() };
    let mut flow = Flow::with_extras(test, setup, extras).await?;
    flow.start(&[Which::Callback, Which::Upstream]).await?;
    let message = NewMessage { routing_key: "witness.sent".into(), ..order(0) };
    let answer = flow.upstream().await?.send_message(SendMessageRequest { message: Some(message) }).await?.into_inner();
    let id = answer.accepted.context("not accepted")?.id;
    flow.queue_reaches(QUEUE, 1).await?;
    ensure!(flow.ground.purge(QUEUE).await? == 1, "the purge did not hit it");
    flow.queue_reaches(QUEUE, 1).await?;
    ensure!(take_and_sign(&flow).await? == id, "another message came");
    flow.all_signed(std::slice::from_ref(&id)).await?;
    flow.resent_once_because(&id, QUEUE, "timed out: no receipt within ").await?;
    ensure!((ordered(&flow).await? - 1.0).abs() < f64::EPSILON, "{} orders", ordered(&flow).await?);
    flow.finish().await
}
