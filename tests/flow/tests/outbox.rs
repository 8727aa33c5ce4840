//! Mode `outbox`: what is stored reaches the broker whoever dies; what the broker refuses waits for a human, who releases it.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_delivery::ports::messages::{Messages as _, Numbered};
use countersign_delivery::topology::Mode;
use countersign_delivery::{Fingerprint, IncarnationId, Message, MessageId, Seq, SubscriptionName, Timestamp, UpstreamName};
use countersign_flow::{Flow, PATIENCE, Setup, order};
use countersign_launcher::{Extras, Program, SUBSCRIPTION, Which, binary, free_port, wait_until};
use countersign_store::{Database, SqlMessages};
use countersign_wire::proto::get_message_request::By;
use countersign_wire::proto::{GetMessageRequest, GetMessageResponse, OutboxStatus, SendMessageRequest};

use crate::command::{countersign, expect};

const ROUTE: &str = "
[[route]]
exchange = \"orders\"
routing_key = \"order.#\"
mode = \"outbox\"
";

/// Orders by the outbox, with these further keys of `[upstream]`.
async fn prepare(test: &str, postgres: bool, keys: &str) -> anyhow::Result<Flow> {
    let extras = Extras { topology: ROUTE.into(), ..Extras::default() };
    let flow = Flow::with_extras(test, Setup { postgres, max_batch: 256 }, extras).await?;
    let file = flow.ground.dir().join("upstream.toml");
    let configuration = std::fs::read_to_string(&file)?;
    std::fs::write(&file, configuration.replace("max_batch = ", &format!("{keys}\nmax_batch = ")))?;
    Ok(flow)
}

async fn stored(flow: &Flow, by: By) -> anyhow::Result<GetMessageResponse> {
    let request = GetMessageRequest { by: Some(by), ..Default::default() };
    Ok(flow.upstream().await?.get_message(request).await?.into_inner())
}

async fn reaches(flow: &Flow, id: &str, wanted: OutboxStatus) -> anyhow::Result<()> {
    let what = format!("message {id} to be {wanted:?}");
    let reached = async || {
        let found = stored(flow, By::Id(id.to_owned())).await;
        found.is_ok_and(|found| found.outbox.is_some_and(|entry| entry.status() == wanted))
    };
    wait_until(&what, PATIENCE, reached).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_store_on_sqlite() -> anyhow::Result<()> {
    killed_at("outbox_killed_after_store_sqlite", false, &["upstream.after_store"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_store_on_postgres() -> anyhow::Result<()> {
    killed_at("outbox_killed_after_store_postgres", true, &["upstream.after_store"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_publish_on_sqlite() -> anyhow::Result<()> {
    killed_at("outbox_killed_after_publish_sqlite", false, &["upstream.after_message_publish"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_publish_on_postgres() -> anyhow::Result<()> {
    killed_at("outbox_killed_after_publish_postgres", true, &["upstream.after_message_publish"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_confirm_on_sqlite() -> anyhow::Result<()> {
    killed_at("outbox_killed_after_confirm_sqlite", false, &["outbox.after_confirm"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_confirm_on_postgres() -> anyhow::Result<()> {
    killed_at("outbox_killed_after_confirm_postgres", true, &["outbox.after_confirm"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_claim_on_sqlite() -> anyhow::Result<()> {
    killed_at("outbox_killed_after_claim_sqlite", false, &["upstream.after_store", "outbox.after_claim"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_claim_on_postgres() -> anyhow::Result<()> {
    killed_at("outbox_killed_after_claim_postgres", true, &["upstream.after_store", "outbox.after_claim"]).await
}

/// One process after the other dies at these points; the next one's sweeper publishes what is due, and nothing else finds it.
async fn killed_at(test: &str, postgres: bool, points: &[&str]) -> anyhow::Result<()> {
    let mut flow = prepare(test, postgres, "outbox_sweep_after_ms = 2000").await?;
    flow.start(&[Which::Callback, Which::Downstream]).await?;
    for (life, point) in points.iter().enumerate() {
        flow.system.spawn(Which::Upstream, &format!("{point}=1*return"))?;
        if life == 0 {
            flow.system.ready(Which::Upstream).await?;
            let _ = flow.upstream().await?.send_message(SendMessageRequest { message: Some(order(1)) }).await;
        }
        flow.system.dies_at(Which::Upstream, point, PATIENCE).await?;
    }
    flow.start(&[Which::Upstream]).await?;
    let id = stored(&flow, By::IdempotencyKey("order-1".into())).await.context("the committed message is gone")?.id;
    flow.all_signed(std::slice::from_ref(&id)).await?;
    flow.each_effected_once(std::slice::from_ref(&id)).await?;
    reaches(&flow, &id, OutboxStatus::Confirmed).await?;
    let swept = flow.system.metric(Which::Upstream, "countersign_outbox_swept_total").await?;
    ensure!(swept >= 1.0, "{swept} rows were swept");
    let checks = flow.system.metric(Which::Callback, "countersign_checks_total").await?;
    ensure!(checks == 0.0, "{checks} checks were judged, but the route asks for none");
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unbound_route_waits_for_a_human_on_sqlite() -> anyhow::Result<()> {
    an_unbound_route_waits_for_a_human("outbox_unbound_sqlite", false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unbound_route_waits_for_a_human_on_postgres() -> anyhow::Result<()> {
    an_unbound_route_waits_for_a_human("outbox_unbound_postgres", true).await
}

/// Nobody is bound: refused more often than may be, shown, released once mended, processed.
async fn an_unbound_route_waits_for_a_human(test: &str, postgres: bool) -> anyhow::Result<()> {
    const NO_ID: &str = "0190a000-0000-7000-8000-000000000000";
    let mut flow = prepare(test, postgres, "outbox_max_tries = 1").await?;
    flow.start(&Which::ALL).await?;
    let sound = flow.send(0, 1).await?;
    flow.all_signed(&sound).await?;
    flow.unbind_work_queue().await?;
    let failed = flow.send(1, 3).await?;
    for id in &failed {
        reaches(&flow, id, OutboxStatus::Failed).await?;
    }
    let listed = expect(&flow, 0, &["outbox", "list"]).await?;
    let ids: Vec<&str> =
        listed["messages"].as_array().context("no messages")?.iter().filter_map(|row| row["id"].as_str()).collect();
    ensure!(ids == failed.iter().map(String::as_str).collect::<Vec<_>>(), "{listed}");
    ensure!(listed["messages"][0]["outbox"]["reason"].as_str().is_some_and(|reason| reason.contains("NO_ROUTE")), "{listed}");
    let told = String::from_utf8(countersign(&flow, &["why", &failed[0]]).await?.stdout)?;
    ensure!(told.contains("waits for a human") && told.contains(&format!("countersign outbox release {}", failed[0])), "{told}");
    let shown = expect(&flow, 0, &["get", &failed[0]]).await?;
    ensure!(shown["mode"] == "outbox" && shown["outbox"]["status"] == "failed" && shown["outbox"]["tries"] == 2, "{shown}");
    let rows = async || {
        flow.system.metric(Which::Upstream, "countersign_outbox_failed_rows").await.is_ok_and(|rows| (rows - 3.0).abs() < 0.5)
    };
    wait_until("the gauge to show three rows", PATIENCE, rows).await?;

    flow.bind_work_queue().await?;
    let sound_id = sound[0].clone();
    let released = expect(&flow, 1, &["outbox", "release", &failed[0], &sound_id, NO_ID]).await?;
    let results: Vec<_> = (0..3).map(|index| released["results"][index]["result"].clone()).collect();
    ensure!(released["released"] == 1 && results == ["released", "not failed", "unknown"], "{released}");
    let released = expect(&flow, 0, &["outbox", "release", "--all"]).await?;
    ensure!(released["released"] == 2, "{released}");
    flow.all_signed(&failed).await?;
    flow.each_effected_once(&[sound, failed.clone()].concat()).await?;
    for id in &failed {
        reaches(&flow, id, OutboxStatus::Confirmed).await?;
    }
    ensure!(expect(&flow, 0, &["outbox", "release", "--all"]).await?["released"] == 0, "there is nothing left to release");
    let [first, second, third] = [0, 1, 2].map(|place| (failed[place].clone(), "done".to_owned()));
    let refused = [sound_id, NO_ID.to_owned()].map(|id| (id, "refused".to_owned()));
    let mut expected = [vec![first, second, third], refused.to_vec()].concat();
    expected.sort();
    wait_until("each release to be one row of the audit", PATIENCE, async || {
        releases(&flow).await.is_ok_and(|rows| rows == expected)
    })
    .await?;
    flow.finish().await
}

/// The releases of the audit: what they were about, and how they ended.
async fn releases(flow: &Flow) -> anyhow::Result<Vec<(String, String)>> {
    let audit = expect(flow, 0, &["audit", "--act", "release", "--service", "upstream"]).await?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let rows = audit["acts"].as_array().context("no acts")?.iter().map(|row| (text(&row["about"]), text(&row["result"])));
    let mut rows: Vec<_> = rows.collect();
    rows.sort();
    Ok(rows)
}

/// What a replica left behind that died with it: rows that are due.
async fn a_backlog(messages: &SqlMessages, incarnation: IncarnationId, from: u64, rows: u64) -> anyhow::Result<()> {
    let row = |seq| -> anyhow::Result<Numbered> {
        let body = format!("{{\"order\":{seq}}}");
        let message = Message {
            id: MessageId::new(uuid(seq))?,
            fingerprint: Fingerprint::of("order.created", "application/json", body.as_bytes()),
            idempotency_key: None,
            required: vec![SubscriptionName::new(SUBSCRIPTION)?],
            exchange: "orders".into(),
            routing_key: "order.created".into(),
            kind: "order.created".into(),
            content_type: "application/json".into(),
            headers: std::collections::BTreeMap::new(),
            body: body.into(),
            sent_at: Timestamp::from_millis(1_800_000_000_000),
            trace: None,
            mode: Mode::Outbox,
        };
        Ok(Numbered { seq: Seq(seq), message })
    };
    let batch = (from..from + rows).map(row).collect::<anyhow::Result<Vec<_>>>()?;
    messages.insert(incarnation, &batch).await?;
    Ok(())
}

/// The UUIDv7 that stands for a number.
fn uuid(number: u64) -> sea_orm::prelude::Uuid {
    sea_orm::prelude::Uuid::from_u128((u128::from(number) << 80) | (7 << 76) | (2 << 62) | u128::from(number))
}

/// Two replicas sweep one backlog on PostgreSQL: every row reaches the queue as often as it was claimed, which is once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_share_a_backlog() -> anyhow::Result<()> {
    const BATCH: u64 = 200;
    const LEAST: u64 = 600;
    let mut flow = prepare("outbox_replicas", true, "").await?;
    flow.start(&[Which::Upstream]).await?;
    let file = flow.ground.dir().join("upstream.toml");
    let configuration = std::fs::read_to_string(&file)?;
    let url = configuration.lines().filter(|line| line.starts_with("url = ")).nth(1).context("no database")?;
    let database = url.trim_start_matches("url = ").trim_matches('"').to_owned();
    // The second replica: the same file with ports of its own.
    let other_http = format!("127.0.0.1:{}", free_port()?);
    let (mut other, mut ports) = (String::new(), [other_http.clone(), format!("127.0.0.1:{}", free_port()?)].into_iter());
    for line in configuration.lines() {
        let listen = line.starts_with("listen = ").then(|| ports.next()).flatten();
        other.push_str(&listen.map_or_else(|| format!("{line}\n"), |address| format!("listen = \"{address}\"\n")));
    }
    let other_file = flow.ground.dir().join("other.toml");
    std::fs::write(&other_file, other)?;
    let log = flow.ground.dir().join("other.log");
    let process =
        Program::new(binary("upstream")?).arg("--config").arg(&other_file).current_dir(flow.ground.dir()).log_to(log).spawn()?;
    let http = reqwest::Client::builder().timeout(Duration::from_secs(5)).build()?;
    let ready = format!("http://{other_http}/health/ready");
    let is_ready = async || http.get(&ready).send().await.is_ok_and(|answer| answer.status().is_success());
    wait_until("the second replica to be ready", PATIENCE, is_ready).await.with_context(|| process.log_text())?;

    let messages = Database::connect(database.as_str()).await?.messages().sweeping_after(0);
    let incarnation = IncarnationId(uuid(1));
    messages.open(&UpstreamName::new("shop")?, incarnation, Timestamp::default()).await?;
    let swept_by_other = async || -> anyhow::Result<u64> {
        let text = http.get(format!("http://{other_http}/metrics")).send().await?.text().await?;
        let value = text.lines().find_map(|line| line.strip_prefix("countersign_outbox_swept_total "));
        Ok(value.map_or(Ok(0), str::parse)?)
    };
    let swept = async || -> anyhow::Result<(u64, u64)> {
        let first = flow.system.metric(Which::Upstream, "countersign_outbox_swept_total").await?;
        Ok((format!("{first}").parse()?, swept_by_other().await?))
    };
    // More rows, until both have had their share.
    let mut rows = 0;
    while rows < LEAST || matches!(swept().await?, (0, _) | (_, 0)) {
        ensure!(rows < 100 * BATCH, "one replica swept all of {rows} rows: {:?}", swept().await?);
        a_backlog(&messages, incarnation, rows + 1, BATCH).await?;
        rows += BATCH;
        wait_until("the backlog to be swept", PATIENCE, async || swept().await.is_ok_and(|(a, b)| a + b >= rows)).await?;
    }
    flow.queue_reaches(SUBSCRIPTION, u32::try_from(rows)?).await?;
    let (first, second) = swept().await?;
    ensure!(first + second == rows, "{first} and {second} claims for {rows} rows");
    let ids: Vec<MessageId> = (1..=rows).map(|seq| MessageId::new(uuid(seq))).collect::<Result<_, _>>()?;
    let confirmed = async || {
        use countersign_delivery::outbox::Status;
        use countersign_delivery::ports::outbox::Outbox as _;
        messages.entries(&ids).await.is_ok_and(|entries| entries.iter().all(|(_, entry)| entry.status == Status::Confirmed))
    };
    wait_until("every row to be confirmed", PATIENCE, confirmed).await?;
    process.terminate()?;
    ensure!(process.wait(PATIENCE).await?.success(), "{}", process.log_text());
    flow.finish().await
}
