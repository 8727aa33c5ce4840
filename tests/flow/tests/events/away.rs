//! The broker is away, or stands still, while deliveries are put aside and taken back: what became of them is told afterwards, in order.

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, PATIENCE};
use countersign_launcher::{Which, wait_until};
use countersign_wire::proto::callback_service_client::CallbackServiceClient;
use countersign_wire::proto::{DiscardDeliveryRequest, RestoreDeliveryRequest};
use sea_orm::{ConnectionTrait as _, Statement};
use serde_json::json;
use tonic::transport::Channel;

use super::Listener;
use crate::bad_input::private::{ready, unready};
use crate::broker_outcomes::rig::{Private, private};

/// Deliveries, and how often each is discarded and restored.
const PARKED: u32 = 20;
const TURNS: usize = 3;

/// Rows of events that MSG DB has.
pub async fn rows(flow: &Flow) -> anyhow::Result<usize> {
    let database = flow.msg_database().await?;
    let count = Statement::from_string(database.get_database_backend(), "SELECT count(*) AS n FROM countersign_event");
    let row = database.query_one_raw(count).await?.context("no count")?;
    database.close().await?;
    Ok(usize::try_from(row.try_get::<i64>("", "n")?)?)
}

/// Everything lives, and so many deliveries are parked; the listener has heard of it.
async fn parked(flow: &mut Flow, url: &str) -> anyhow::Result<(Listener, Vec<String>)> {
    flow.start(&Which::ALL).await?;
    let listener = Listener::bound_at(url).await?;
    flow.system.behave(&json!({"status": 422})).await?;
    let ids = flow.send(0, PARKED).await?;
    flow.all_in_state(&ids, "parked").await?;
    for id in &ids {
        listener.hears("parked", id, 1).await?;
    }
    wait_until("all events to be told", PATIENCE, async || rows(flow).await.is_ok_and(|rows| rows == 0)).await?;
    Ok((listener, ids))
}

/// One discard and one restore of each: two events.
async fn put_aside_and_taken_back(callback: &mut CallbackServiceClient<Channel>, ids: &[String]) -> anyhow::Result<()> {
    for id in ids {
        let (message_id, by, reason) = (id.clone(), "ann".to_owned(), "to be told of".to_owned());
        let discard = DiscardDeliveryRequest { message_id, by: by.clone(), reason, ..Default::default() };
        callback.discard_delivery(discard).await?;
        callback.restore_delivery(RestoreDeliveryRequest { message_id: id.clone(), by, ..Default::default() }).await?;
    }
    Ok(())
}

/// Waits until all has been told, and asserts that each delivery's events come in the order in which they happened, repeats left out.
async fn told_in_order(flow: &Flow, url: &str, ids: &[String], turns: usize) -> anyhow::Result<()> {
    wait_until("all events to be told", PATIENCE, async || rows(flow).await.is_ok_and(|rows| rows == 0)).await?;
    let listener = Listener::bound_at(url).await?;
    listener.listen().await?;
    let expected: Vec<&str> = ["discarded", "restored"].into_iter().cycle().take(2 * turns).collect();
    for id in ids {
        let heard = listener.story(id).await;
        ensure!(heard == expected, "of {id} was heard {heard:?}");
    }
    Ok(())
}

/// Callback, too, is killed while the broker is away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_while_the_broker_is_away_is_told_in_order_when_it_is_back() -> anyhow::Result<()> {
    let Private { dir: _dir, mut broker, mut flow } = private("events_away", "").await?;
    let url = broker.amqp_url("/");
    let (_, ids) = parked(&mut flow, &url).await?;
    broker.settle().await?;
    broker.kill9();
    unready(&flow, &[Which::Callback], "broker", &["not connected to the broker"]).await?;
    let mut callback = flow.callback().await?;
    for turn in 1..=TURNS {
        put_aside_and_taken_back(&mut callback, &ids).await?;
        // A row for each until the broker confirms it, and no more.
        ensure!(rows(&flow).await? == turn * 2 * ids.len(), "{} rows after {turn} turns", rows(&flow).await?);
    }
    flow.system.kill9(Which::Callback);
    flow.system.spawn(Which::Callback, "")?;
    unready(&flow, &[Which::Callback], "broker", &["not connected to the broker"]).await?;
    ensure!(rows(&flow).await? == TURNS * 2 * ids.len(), "{} rows after the kill", rows(&flow).await?);
    broker.start_again().await?;
    ready(&flow).await?;
    told_in_order(&flow, &url, &ids, TURNS).await?;
    flow.no_invariant_was_violated()?;
    flow.finish().await
}

/// It has been given events and says nothing, and callback does not know it yet; more happens meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_leaves_without_an_answer_is_not_overtaken() -> anyhow::Result<()> {
    let Private { dir: _dir, broker, mut flow } = private("events_frozen", "").await?;
    let url = broker.amqp_url("/");
    let (_, ids) = parked(&mut flow, &url).await?;
    broker.pause()?;
    let mut callback = flow.callback().await?;
    put_aside_and_taken_back(&mut callback, &ids).await?;
    let unanswered = async || {
        let label = "outcome=\"unknown\"";
        flow.system.look().metric(Which::Callback, "countersign_events_total", label).await.is_ok_and(|count| count > 0.0)
    };
    wait_until("events to be left without an answer", PATIENCE, unanswered).await?;
    for _ in 1..TURNS {
        put_aside_and_taken_back(&mut callback, &ids).await?;
    }
    ensure!(rows(&flow).await? == TURNS * 2 * ids.len(), "{} rows", rows(&flow).await?);
    broker.resume()?;
    ready(&flow).await?;
    told_in_order(&flow, &url, &ids, TURNS).await?;
    flow.no_invariant_was_violated()?;
    flow.finish().await
}
