//! Callback deletes what is signed for and old, and nothing else; a check that comes again after that changes nothing.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use countersign_delivery::check::{Check, CheckBatch};
use countersign_delivery::{Attempt, Fingerprint, MessageId, SubscriptionName, UpstreamName};
use countersign_flow::{Flow, PATIENCE, Setup};
use countersign_launcher::{SUBSCRIPTION, Which, wait_until};
use countersign_wire::checks;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Connection, ConnectionProperties};

/// Above the longest time of a resend by [`FIGURES`].
const KEYS: &str = "retention_ms = 14000\ndedup_retention_ms = 4000";
const FIGURES: &str = "[policy]
max_resends = 0
resend_lease_ms = 2000
probe_grace_ms = 500
probe_spacing_ms = 200
probe_replace_ms = 500
probe_replace_max_ms = 500
overdue_ms = 2500
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqlite() -> anyhow::Result<()> {
    only_what_is_signed_and_old_is_deleted("msg_retention_sqlite", false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres() -> anyhow::Result<()> {
    only_what_is_signed_and_old_is_deleted("msg_retention_postgres", true).await
}

async fn prepare(test: &str, postgres: bool) -> anyhow::Result<Flow> {
    let flow = Flow::new(test, Setup { postgres, max_batch: 256 }).await?;
    flow.configure(Which::Callback, "[callback]", KEYS)?;
    let file = flow.ground.path("callback.toml");
    let configuration = std::fs::read_to_string(&file)?;
    let (before, _) = configuration.split_once("[policy]").context("callback.toml has no [policy]")?;
    std::fs::write(&file, format!("{before}{FIGURES}"))?;
    Ok(flow)
}

async fn known(flow: &Flow) -> anyhow::Result<BTreeSet<String>> {
    Ok(flow.deliveries().await?.into_iter().map(|delivery| delivery.message_id).collect())
}

async fn only_what_is_signed_and_old_is_deleted(test: &str, postgres: bool) -> anyhow::Result<()> {
    let mut flow = prepare(test, postgres).await?;
    flow.start(&[Which::Callback, Which::Upstream]).await?;
    let lost = flow.send(0, 2).await?;
    flow.queue_reaches(SUBSCRIPTION, 2).await?;
    flow.ground.purge(SUBSCRIPTION).await?;
    flow.start(&[Which::Downstream]).await?;
    let old = flow.send(2, 20).await?;
    flow.all_signed(&old).await?;
    flow.all_in_state(&lost, "parked").await?;
    let gone = async || known(&flow).await.is_ok_and(|known| old.iter().all(|id| !known.contains(id)));
    wait_until("what is signed and old to be deleted", PATIENCE, gone).await?;
    let young = flow.send(22, 5).await?;
    flow.all_signed(&young).await?;
    let kept = known(&flow).await?;
    ensure!(lost.iter().all(|id| kept.contains(id)), "a parked delivery was deleted");
    let counted = flow.system.metric(Which::Callback, "countersign_msg_db_deleted_total").await?;
    ensure!(counted >= 20.0, "{counted} are counted");

    let stale = async || flow.system.look().metric(Which::Callback, "countersign_checks_total", "verdict=\"stale\"").await;
    let before = stale().await?;
    check_again(&flow, &old[0]).await?;
    let judged = async || stale().await.is_ok_and(|now| now > before);
    wait_until("the late check to be judged", PATIENCE, judged).await?;
    ensure!(!known(&flow).await?.contains(&old[0]), "a ghost came of a late check");
    let resent = flow.system.metric(Which::Callback, "countersign_resend_orders_total").await?;
    ensure!(resent == 0.0, "{resent} resends were ordered");
    flow.each_effected_once(&[old, young].concat()).await?;
    flow.finish().await
}

/// Publishes a copy of a message's check as it first came.
async fn check_again(flow: &Flow, id: &str) -> anyhow::Result<()> {
    let message_id = MessageId::parse(id)?;
    let check = Check {
        message_id,
        fingerprint: Fingerprint::new(vec![7; 32])?,
        attempt: Attempt::FIRST,
        waits: 0,
        sent_at: message_id.minted_at(),
        required: vec![SubscriptionName::new(SUBSCRIPTION)?],
        marks: Vec::new(),
        trace: None,
    };
    let body = checks::encode(&CheckBatch { upstream: UpstreamName::new("shop")?, checks: vec![check] });
    let connection = Connection::connect(&flow.ground.amqp_url(), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    channel.basic_publish("".into(), "countersign.checks".into(), options, &body, properties).await?.await?;
    Ok(())
}
