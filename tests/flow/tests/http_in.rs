//! Messages come by HTTP: every mode, every refusal, and the same answers as by gRPC.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use countersign_flow::{Flow, PATIENCE, Setup, everywhere, order};
use countersign_launcher::{Which, wait_until};
use countersign_wire::proto::{NewMessage, SendMessageRequest};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::time::timeout;

const SETUP: Setup = Setup { postgres: false, max_batch: 256 };
const JSON: &str = "application/json";
const STRUCTURED: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";

/// Somebody who knows HTTP and nothing of ours.
struct Sender {
    client: Client,
    url: String,
}

impl Sender {
    fn new(flow: &Flow) -> anyhow::Result<Self> {
        let client = Client::builder().timeout(Duration::from_mins(1)).no_proxy().build()?;
        Ok(Self { client, url: flow.system.http_url(Which::Upstream) })
    }

    fn post(&self) -> RequestBuilder {
        self.client.post(format!("{}/v1/messages?exchange=orders", self.url))
    }

    /// An order in binary mode.
    fn order(&self, id: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
        let attributes = [("ce-specversion", "1.0"), ("ce-id", id), ("ce-source", "/shop"), ("ce-type", "order.created")];
        let request = attributes.into_iter().fold(self.post(), |request, (name, value)| request.header(name, value));
        request.header("content-type", JSON).body(body)
    }

    fn json(&self, content_type: &str, body: &Value) -> RequestBuilder {
        self.post().header("content-type", content_type).body(body.to_string())
    }
}

/// The same order as JSON.
fn an_event(id: &str, data: &Value) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "/shop", "type": "order.created", "data": data})
}

/// Status and body of an answer; whatever is not 2xx must be a problem that says its own status.
async fn answer(request: RequestBuilder) -> anyhow::Result<(u16, Value)> {
    let response = request.send().await?;
    let status = response.status();
    let media = response.headers().get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let body: Value = response.json().await.with_context(|| format!("{status} without JSON"))?;
    ensure!(media == if status.is_success() { JSON } else { "application/problem+json" }, "{status} as {media}: {body}");
    ensure!(status.is_success() || body["status"] == status.as_u16(), "{status}: {body}");
    Ok((status.as_u16(), body))
}

async fn accepted(request: RequestBuilder) -> anyhow::Result<Value> {
    let (status, body) = answer(request).await?;
    ensure!(status == 202, "{status}: {body}");
    Ok(body)
}

async fn refused(request: RequestBuilder, status: u16, word: &str) -> anyhow::Result<Value> {
    let (got, body) = answer(request).await?;
    let detail = body["detail"].as_str().unwrap_or_default();
    ensure!(got == status && detail.contains(word), "{got}, expected {status} with {word:?}: {body}");
    Ok(body)
}

fn id_of(accepted: &Value) -> anyhow::Result<String> {
    Ok(accepted["id"].as_str().with_context(|| format!("no id in {accepted}"))?.to_owned())
}

everywhere!(events_of_every_mode_are_processed_once_and_signed_for);

async fn events_of_every_mode_are_processed_once_and_signed_for(mut flow: Flow) -> anyhow::Result<()> {
    flow.start(&Which::ALL).await?;
    let sender = Sender::new(&flow)?;
    let binary = accepted(sender.order("1", "{\"order\":1}")).await?;
    ensure!(binary["state"] == "confirmed" && binary["duplicate"] == false, "{binary}");
    let structured = accepted(sender.json(STRUCTURED, &an_event("2", &json!({"order": 2})))).await?;
    let batch = json!([an_event("3", &json!({"order": 3})), an_event("1", &json!({"order": 1})), an_event("4", &json!(4))]);
    let batched = accepted(sender.json(BATCH, &batch)).await?;
    let results = batched["results"].as_array().context("no results")?;
    ensure!(results.len() == 3 && results[1]["id"] == binary["id"] && results[1]["duplicate"] == true, "{batched}");
    let again = accepted(sender.order("1", "{\"order\":1}")).await?;
    ensure!(again["id"] == binary["id"] && again["duplicate"] == true, "{again}");
    ensure!(again["fingerprint"] == binary["fingerprint"], "{again}");
    let ids = [&binary, &structured, &results[0], &results[2]].map(id_of).into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_is_one_message_by_grpc_and_by_http() -> anyhow::Result<()> {
    let mut flow = Flow::new("http_in_key", SETUP).await?;
    flow.start(&Which::ALL).await?;
    let (sender, mut grpc) = (Sender::new(&flow)?, flow.upstream().await?);
    let first =
        grpc.send_message(SendMessageRequest { message: Some(order(7)) }).await?.into_inner().accepted.context("refused")?;
    let same = |body: &'static str| sender.order("any", body).header("idempotency-key", "\"order-7\"");
    let again = accepted(same("{\"order\":7}")).await?;
    ensure!(again["id"] == first.id.as_str() && again["duplicate"] == true, "{again}");
    let conflict = refused(same("{\"order\":8}"), 409, "order-7").await?;
    ensure!(conflict["code"] == "ALREADY_EXISTS", "{conflict}");

    let by_http = accepted(sender.order("9", "{\"order\":9}")).await?;
    let message = NewMessage { idempotency_key: "/shop 9".into(), ..order(9) };
    let again =
        grpc.send_message(SendMessageRequest { message: Some(message) }).await?.into_inner().accepted.context("refused")?;
    ensure!(by_http["id"] == again.id.as_str() && again.duplicate, "{again:?}");
    let ids = [first.id, again.id];
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_says_why_and_is_not_stored() -> anyhow::Result<()> {
    let mut flow = Flow::new("http_in_refused", SETUP).await?;
    flow.start(&[Which::Upstream]).await?;
    let sender = Sender::new(&flow)?;
    let url = |path: &str| format!("{}{path}", sender.url);
    let plain = || sender.post().header("content-type", JSON).body("{}");
    let with = |name: &'static str, value: &'static str| sender.order("1", "{}").header(name, value);
    let large = || vec![b'x'; 3 * 1024 * 1024];
    let rows = [
        (plain(), 400, "ce-specversion: 1.0"),
        (plain().header("ce-id", "1"), 400, "ce-specversion is missing"),
        (plain().header("ce-specversion", "1.0").header("ce-id", "1").header("ce-source", "/shop"), 400, "ce-type is missing"),
        (with("ce-source", "/elsewhere"), 400, "twice"),
        (with("ce-time", "noon"), 400, "RFC 3339"),
        (with("ce-tenant", "%ff"), 400, "ce-tenant"),
        (with("idempotency-key", "\"open"), 400, "Idempotency-Key"),
        (with("content-encoding", "gzip"), 415, "gzip"),
        (sender.json("application/cloudevents+avro", &json!({})), 415, STRUCTURED),
        (sender.json(STRUCTURED, &json!([])), 400, "JSON object"),
        (sender.json(STRUCTURED, &json!({"specversion": "1.0"})), 400, "\"id\" is missing"),
        (sender.json(BATCH, &json!({})), 400, "JSON array"),
        (sender.json(BATCH, &json!([])), 400, "1 to 500"),
        (sender.client.post(url("/v1/messages?queue=orders")).body("{}"), 400, "exchange and routing_key"),
        (with("ce-routingkey", "nobody.cares"), 422, "nobody.cares"),
        (with("ce-exchange", "nowhere"), 422, "nowhere"),
        (sender.order("1", large()), 413, "body has 3145728 bytes; at most 1048576"),
        (sender.post().header("content-type", STRUCTURED).body(large()), 413, "3145728 bytes; at most 2228224"),
        (sender.client.request(Method::PUT, url("/v1/messages")), 405, "POST"),
        (sender.client.post(url("/v1/events")).body("{}"), 404, "/v1/messages"),
    ];
    for (request, status, word) in rows {
        refused(request, status, word).await?;
    }
    let allow = sender.client.get(url("/v1/messages")).send().await?.headers().get("allow").cloned();
    ensure!(allow.as_ref().is_some_and(|allow| allow == "POST"), "{allow:?}");
    ensure!(flow.work_queue_depth().await? == 0, "something was published");
    ensure!(accepted(sender.order("1", "{}")).await?["duplicate"] == false, "something was stored");
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_is_partly_refused_is_mended_and_sent_again() -> anyhow::Result<()> {
    let mut flow = Flow::new("http_in_batch", SETUP).await?;
    flow.start(&Which::ALL).await?;
    let sender = Sender::new(&flow)?;
    let unroutable = json!({"specversion": "1.0", "id": "2", "source": "/shop", "type": "stock.moved", "data": 2});
    let partly = json!([an_event("1", &json!(1)), unroutable, {"specversion": "1.0"}, an_event("4", &json!(4))]);
    let refused = refused(sender.json(BATCH, &partly), 422, "2 of 4 events").await?;
    let results = refused["results"].as_array().context("no results")?;
    let codes: Vec<_> = results.iter().map(|result| result["code"].as_str().unwrap_or("accepted")).collect();
    ensure!(codes == ["accepted", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "accepted"], "{refused}");

    let mended = json!([1, 2, 3, 4].map(|number| an_event(&number.to_string(), &json!(number))));
    let all = accepted(sender.json(BATCH, &mended)).await?;
    let all = all["results"].as_array().context("no results")?;
    let duplicates: Vec<_> = all.iter().map(|result| result["duplicate"] == true).collect();
    ensure!(duplicates == [true, false, false, true], "{all:?}");
    let ids = all.iter().map(id_of).collect::<anyhow::Result<Vec<_>>>()?;
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_cannot_take_now_is_committed_and_processed_later() -> anyhow::Result<()> {
    let mut flow = Flow::new("http_in_committed", SETUP).await?;
    flow.start(&Which::ALL).await?;
    flow.unbind_work_queue().await?;
    let sender = Sender::new(&flow)?;
    let committed = accepted(sender.order("1", "{\"order\":1}")).await?;
    ensure!(committed["state"] == "committed", "the queue was not unbound: {committed}");
    flow.bind_work_queue().await?;
    let ids = [id_of(&committed)?];
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    let again = accepted(sender.order("1", "{\"order\":1}")).await?;
    ensure!(again["id"] == committed["id"] && again["duplicate"] == true, "{again}");
    flow.finish().await
}

/// Sends one order after the other until upstream's port is closed, and notes what was accepted.
async fn send_until_closed(sender: Sender, taken: Arc<Mutex<Vec<String>>>) -> anyhow::Result<()> {
    for number in 0_u32.. {
        match answer(sender.order(&number.to_string(), format!("{{\"order\":{number}}}"))).await {
            Ok((202, body)) => taken.lock().unwrap_or_else(PoisonError::into_inner).push(id_of(&body)?),
            Ok((503, _)) => {}
            Ok((status, body)) => bail!("{status}: {body}"),
            Err(_) => break,
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_an_upstream_has_accepted_when_it_is_stopped_is_processed() -> anyhow::Result<()> {
    let mut flow = Flow::new("http_in_stop", SETUP).await?;
    flow.start(&Which::ALL).await?;
    let taken = Arc::new(Mutex::new(Vec::new()));
    let count = || taken.lock().unwrap_or_else(PoisonError::into_inner).len();
    let sending = tokio::spawn(send_until_closed(Sender::new(&flow)?, taken.clone()));
    wait_until("20 orders to be accepted", PATIENCE, async || count() >= 20 || sending.is_finished()).await?;
    flow.system.stop(Which::Upstream).await?;
    timeout(PATIENCE, sending).await???;
    let ids = std::mem::take(&mut *taken.lock().unwrap_or_else(PoisonError::into_inner));
    ensure!(ids.len() >= 20, "only {ids:?} were accepted");
    flow.start(&[Which::Upstream]).await?;
    flow.all_signed(&ids).await?;
    // Not "nothing else": the last call's answer was not heard.
    let effects = flow.system.effects().await?.effects;
    ensure!(ids.iter().all(|id| effects.get(id) == Some(&1)), "{ids:?} had the effects {effects:?}");
    ensure!(flow.work_queue_depth().await? == 0, "something is left");
    flow.finish().await
}
