//! Mode `confirmed`: nothing is stored, so whatever is not a confirm is the caller's to know.

use anyhow::{Context as _, bail, ensure};
use countersign_flow::{Flow, Gate, PATIENCE, Setup, Side, order};
use countersign_launcher::{Extras, Which, wait_until};
use countersign_wire::proto::get_message_request::By;
use countersign_wire::proto::{GetMessageRequest, NewMessage, SendMessageRequest, SendState};
use serde_json::json;
use tonic::{Code, Status};

const TOPOLOGY: &str = r#"
[[subscription]]
name = "narrow"
probes = false
max_length = 3
retry_delays_ms = [250]
bind = [{ exchange = "orders", routing_key = "narrow.#" }]

[[route]]
exchange = "orders"
mode = "confirmed"
"#;

fn unkeyed(number: u32) -> NewMessage {
    NewMessage { idempotency_key: String::new(), ..order(number) }
}

async fn send(flow: &Flow, message: NewMessage) -> anyhow::Result<Result<String, Status>> {
    let answer = flow.upstream().await?.send_message(SendMessageRequest { message: Some(message) }).await;
    let answer = match answer {
        Ok(answer) => answer.into_inner().accepted.context("no answer")?,
        Err(status) => return Ok(Err(status)),
    };
    ensure!(answer.state() == SendState::Confirmed, "{answer:?}");
    Ok(Ok(answer.id))
}

async fn refused(flow: &Flow, message: NewMessage, code: Code, words: &str) -> anyhow::Result<Status> {
    match send(flow, message).await? {
        Err(status) if status.code() == code && status.message().contains(words) => Ok(status),
        other => bail!("expected {code:?} with {words:?}, got {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_confirm_is_an_acceptance() -> anyhow::Result<()> {
    let extras = Extras { topology: TOPOLOGY.into(), ..Extras::default() };
    let mut flow = Flow::with_extras("confirmed", Setup { postgres: false, max_batch: 256 }, extras).await?;
    // Between upstream and the broker, which others share.
    let amqp = flow.ground.amqp_url();
    let (_, rest) = amqp.split_once('@').context("no user in the broker's address")?;
    let (broker, _) = rest.split_once('/').context("no virtual host")?;
    let gate = Gate::before(broker.to_owned()).await?;
    let file = flow.ground.dir().join("upstream.toml");
    let configuration = std::fs::read_to_string(&file)?.replace(broker, &gate.address().to_string());
    std::fs::write(&file, configuration.replace("max_batch = ", "confirm_wait_ms = 2000\nmax_batch = "))?;
    flow.start(&Which::ALL).await?;

    // Accepted: processed as ever, and stored nowhere.
    let id = send(&flow, unkeyed(1)).await??;
    flow.all_signed(std::slice::from_ref(&id)).await?;
    let request = GetMessageRequest { by: Some(By::Id(id.clone())), ..Default::default() };
    let found = flow.upstream().await?.get_message(request).await;
    ensure!(found.as_ref().is_err_and(|status| status.code() == Code::NotFound), "{found:?}");
    refused(&flow, order(2), Code::InvalidArgument, "mode confirmed").await?;

    // HTTP: the key that an event implies is left out; the same event twice is two messages.
    let event = json!({"specversion": "1.0", "type": "order.created", "source": "/shop", "id": "A-1", "data": {"order": 3}});
    let mut ids = vec![id];
    for _ in 0..2 {
        let http = format!("{}/v1/messages?exchange=orders", flow.system.http_url(Which::Upstream));
        let request = reqwest::Client::new().post(http).header("content-type", "application/cloudevents+json");
        let answer: serde_json::Value = serde_json::from_str(&request.body(event.to_string()).send().await?.text().await?)?;
        ensure!(answer["state"] == "confirmed" && answer["duplicate"] == false, "{answer}");
        ids.push(answer["id"].as_str().context("no id")?.to_owned());
    }
    flow.all_signed(&ids).await?;

    // Nacked: the queue is full, and its caller is told when to come back.
    let narrow = |number| NewMessage { routing_key: "narrow.sent".into(), ..unkeyed(number) };
    let mut number = 10;
    let status = loop {
        ensure!(number < 100, "a queue of three takes {number} messages");
        number += 1;
        if let Err(status) = send(&flow, narrow(number)).await? {
            break status;
        }
    };
    ensure!(status.code() == Code::ResourceExhausted && !status.details().is_empty(), "{status:?}");
    ensure!(status.metadata().get("grpc-retry-pushback-ms").is_some(), "{status:?}");

    // Returned: nobody is bound.
    flow.unbind_work_queue().await?;
    refused(&flow, unkeyed(4), Code::FailedPrecondition, "NO_ROUTE").await?;
    flow.bind_work_queue().await?;

    // No answer: it may have been published, and here it was.
    gate.hold(Side::Server);
    refused(&flow, unkeyed(5), Code::Unavailable, "it may have been published, nothing is stored").await?;
    gate.release(Side::Server);
    flow.effects_reach(4).await?;
    let again = async || send(&flow, unkeyed(6)).await.is_ok_and(|sent| sent.is_ok());
    wait_until("the broker to confirm again", PATIENCE, again).await?;
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_broker_it_is_refused() -> anyhow::Result<()> {
    let extras = Extras { topology: TOPOLOGY.into(), ..Extras::default() };
    let mut flow = Flow::with_extras("confirmed_away", Setup { postgres: false, max_batch: 256 }, extras).await?;
    let file = flow.ground.dir().join("upstream.toml");
    let amqp = flow.ground.amqp_url();
    let nobody = format!("amqp://guest:guest@127.0.0.1:{}/%2f", countersign_launcher::free_port()?);
    let configuration = std::fs::read_to_string(&file)?.replace(&amqp, &nobody);
    std::fs::write(&file, configuration.replace("max_batch = ", "start_wait_ms = 100\nmax_batch = "))?;
    flow.start(&[Which::Upstream]).await?;
    refused(&flow, unkeyed(1), Code::Unavailable, "nothing is stored").await?;
    flow.finish().await
}
