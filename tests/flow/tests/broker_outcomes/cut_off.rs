//! The broker closes the channel (no such exchange), or every connection.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::ensure;
use countersign_flow::{Flow, Setup, order};
use countersign_launcher::{Extras, RabbitMq, Which};
use countersign_wire::proto::{NewMessage, SendState};
use lapin::options::{ExchangeDeclareOptions, ExchangeDeleteOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties, ExchangeKind};

use super::rig::{Private, all_are, extras, finish, has_fired, private, published, send};

const ON_POSTGRES: Setup = Setup { postgres: true, max_batch: 256 };
/// How often all connections are closed.
const ROUNDS: usize = 3;
/// A route beside the one that breaks; its consumer is somebody else's.
const OTHER: &str = r#"
[[exchange]]
name = "side"
kind = "topic"

[[subscription]]
name = "side.audit"
probes = false
retry_delays_ms = []
bind = [{ exchange = "side", routing_key = "side.#" }]
"#;

fn aside(number: u32) -> NewMessage {
    NewMessage {
        exchange: "side".into(),
        routing_key: "side.told".into(),
        idempotency_key: format!("side-{number}"),
        ..order(number)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_that_goes_stops_its_own_messages_and_no_others() -> anyhow::Result<()> {
    let extras = Extras { topology: OTHER.into(), ..extras("republish_max_ms = 1000") };
    let mut flow = Flow::with_extras("no_exchange", ON_POSTGRES, extras).await?;
    flow.start(&Which::ALL).await?;
    let mut ids = all_are(&flow, SendState::Confirmed, 0, 2).await?;
    let connection = Connection::connect(&flow.ground.amqp_url(), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.exchange_delete("orders".into(), ExchangeDeleteOptions::default()).await?;

    ids.extend(all_are(&flow, SendState::Committed, 2, 3).await?);
    // It cost the channel once; since then what goes there is turned down before it is published.
    has_fired(&flow, "unknown", 0.0).await?;
    has_fired(&flow, "returned", 0.0).await?;
    let mut confirmed = 0;
    for number in 0..20 {
        confirmed += u32::from(send(&flow, aside(number)).await?.state() == SendState::Confirmed);
        ids.extend(all_are(&flow, SendState::Committed, 100 + number, 1).await?);
    }
    ensure!(confirmed >= 15, "of 20 messages of another route {confirmed} were confirmed at once");

    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare("orders".into(), ExchangeKind::Topic, options, FieldTable::default()).await?;
    flow.bind_work_queue().await?;
    finish(flow, &ids).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_the_broker_closes_are_made_anew_without_loss() -> anyhow::Result<()> {
    let Private { dir: _dir, broker, mut flow } = private("closed", "").await?;
    flow.start(&Which::ALL).await?;
    let over = AtomicBool::new(false);
    let sending = async {
        let mut ids = Vec::new();
        for number in 0.. {
            if over.load(Ordering::Relaxed) {
                break;
            }
            ids.push(send(&flow, order(number)).await?.id);
        }
        anyhow::Ok(ids)
    };
    let closing = async {
        let closed = close_all(&broker, &flow).await;
        over.store(true, Ordering::Relaxed);
        closed
    };
    let (ids, closed) = tokio::join!(sending, closing);
    closed?;
    let ids = ids?;
    for which in Which::ALL {
        let times = flow.system.log_of(which)?.matches("CONNECTION_FORCED").count();
        ensure!(times >= ROUNDS, "{} was cut off {times} times", which.name());
    }
    finish(flow, &ids).await
}

/// Closes every connection, several times, and waits each time until messages flow again.
async fn close_all(broker: &RabbitMq, flow: &Flow) -> anyhow::Result<()> {
    for _ in 0..ROUNDS {
        let effects = flow.system.effects().await?.distinct;
        flow.effects_reach(effects + 10).await?;
        let confirmed = published(flow, "confirmed").await?;
        broker.ctl(&["close_all_connections", "a test"]).await?;
        has_fired(flow, "confirmed", confirmed).await?;
    }
    let effects = flow.system.effects().await?.distinct;
    flow.effects_reach(effects + 10).await
}
