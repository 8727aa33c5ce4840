//! Due checks that callback judges a second: a measurement, not a test; it prints. On servers that nobody else uses:
//!
//! ```sh
//! cargo build --workspace --bins --examples --features countersign-boot/failpoints
//! target/debug/with-servers rabbitmq redis postgres -- cargo nextest run --workspace --test flow \
//!   --features countersign-boot/failpoints --run-ignored only --no-capture -E 'test(~storm::judged)'
//! ```

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use countersign_delivery::check::{Check, CheckBatch};
use countersign_delivery::receipt::{Receipt, ReceiptBatch};
use countersign_delivery::{Attempt, Fingerprint, MessageId, Outcome, SubscriptionName, Timestamp, UpstreamName};
use countersign_flow::{Flow, PATIENCE, Setup};
use countersign_launcher::{Program, Running, SUBSCRIPTION, Which, binary, free_port, wait_until};
use countersign_wire::{checks, receipts};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Connection, ConnectionProperties};

use super::{peak_mib, transactions};

/// Checks that are due.
const CHECKS: usize = 200_000;
/// Checks or receipts in one message of the broker.
const BATCH: usize = 256;
const RUNS: usize = 3;
/// So far away that no check comes twice within the measurement, milliseconds.
const FAR_MS: u64 = 600_000;

/// What one run came to.
#[derive(Clone, Copy, Debug)]
struct Cost {
    per_second: f64,
    transactions_a_batch: f64,
    peak_mib: u64,
}

/// A second callback on the first one's configuration.
struct Second {
    _running: Running,
    metrics_url: String,
}

impl Second {
    fn start(flow: &Flow) -> anyhow::Result<Self> {
        let (http, grpc) = (free_port()?, free_port()?);
        let running = Program::new(binary("callback")?)
            .arg("--config")
            .arg(flow.ground.path("callback.toml"))
            .env("COUNTERSIGN_HTTP__LISTEN", format!("127.0.0.1:{http}"))
            .env("COUNTERSIGN_GRPC__LISTEN", format!("127.0.0.1:{grpc}"))
            .log_to(flow.ground.path("callback-2.log"))
            .spawn()?;
        Ok(Self { _running: running, metrics_url: format!("http://127.0.0.1:{http}/metrics") })
    }

    async fn judged(&self) -> f64 {
        let Ok(answer) = reqwest::get(&self.metrics_url).await else { return 0.0 };
        let text = answer.text().await.unwrap_or_default();
        let lines = text.lines().filter(|line| line.starts_with("countersign_checks_total{"));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

/// A connection that publishes bodies to a queue.
async fn publish(flow: &Flow, queue: &str, bodies: impl Iterator<Item: AsRef<[u8]>>) -> anyhow::Result<()> {
    let connection = Connection::connect(&flow.ground.amqp_url(), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    for body in bodies {
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default().with_delivery_mode(2));
        let confirm = channel.basic_publish("".into(), queue.into(), options, body.as_ref(), properties).await?.await?;
        ensure!(confirm.is_ack(), "the broker answered {confirm:?}");
    }
    Ok(())
}

fn ids(run: u32) -> Vec<MessageId> {
    let id = |number: usize| MessageId::parse(&format!("{run:08x}-0000-7000-8000-{number:012x}"));
    (0..CHECKS).map(|number| id(number).expect("an id of version 7")).collect()
}

fn check_batches(ids: &[MessageId]) -> impl Iterator<Item: AsRef<[u8]>> {
    let upstream = UpstreamName::new("shop").expect("a name");
    let check = |id: &MessageId| Check {
        message_id: *id,
        fingerprint: fingerprint(),
        attempt: Attempt::FIRST,
        waits: 0,
        sent_at: Timestamp::from_millis(1_700_000_000_000),
        required: vec![subscription()],
        marks: Vec::new(),
        trace: None,
    };
    ids.chunks(BATCH)
        .map(move |part| checks::encode(&CheckBatch { upstream: upstream.clone(), checks: part.iter().map(check).collect() }))
}

fn receipt_batches(ids: &[MessageId]) -> impl Iterator<Item: AsRef<[u8]>> {
    let receipt = |id: &MessageId| Receipt {
        message_id: *id,
        subscription: subscription(),
        upstream: UpstreamName::new("shop").expect("a name"),
        fingerprint: fingerprint(),
        attempt: Attempt::FIRST,
        sent_at: Timestamp::from_millis(1_700_000_000_000),
        outcome: Outcome::Done,
        trace: None,
    };
    ids.chunks(BATCH).map(move |part| {
        receipts::encode(&ReceiptBatch { receipts: part.iter().map(receipt).collect(), probes: Vec::new() }).to_vec()
    })
}

fn fingerprint() -> Fingerprint {
    Fingerprint::of("order.created", "application/json", b"one and the same")
}

fn subscription() -> SubscriptionName {
    SubscriptionName::new(SUBSCRIPTION).expect("a name")
}

/// Checks that wait come again much later.
fn far_tiers(flow: &Flow) -> anyhow::Result<()> {
    let topology = flow.system.topology_file();
    let text = std::fs::read_to_string(&topology)?;
    let (before, rest) = text.split_once("recheck_delays_ms = [").context("no tiers")?;
    let (_, after) = rest.split_once(']').context("no end of the tiers")?;
    std::fs::write(&topology, format!("{before}recheck_delays_ms = [{FAR_MS}]{after}"))?;
    let file = flow.ground.path("callback.toml");
    let text = std::fs::read_to_string(&file)?;
    let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("overdue_ms")).collect();
    Ok(std::fs::write(&file, format!("{}\noverdue_ms = {}\n", kept.join("\n"), 2 * FAR_MS))?)
}

/// Fills the queue of due checks, then starts one or two callbacks and waits until all are judged and acked.
async fn judge(signed: bool, replicas: usize, run: u32) -> anyhow::Result<Cost> {
    let mut flow = Flow::new("storm_judged", Setup { postgres: true, max_batch: 256 }).await?;
    far_tiers(&flow)?;
    let ids = ids(run);
    flow.start(&[Which::Callback]).await?;
    if signed {
        publish(&flow, "countersign.receipts", receipt_batches(&ids)).await?;
        let name = "countersign_receipts_total";
        let wanted = f64::from(u32::try_from(CHECKS)?);
        let recorded = async || flow.system.metric(Which::Callback, name).await.is_ok_and(|count| count >= wanted);
        wait_until("the receipts to be recorded", 2 * PATIENCE, recorded).await?;
    }
    flow.system.stop(Which::Callback).await?;
    publish(&flow, "countersign.checks", check_batches(&ids)).await?;

    let before = transactions(&flow).await?;
    let second = if replicas == 2 { Some(Second::start(&flow)?) } else { None };
    flow.system.spawn(Which::Callback, "")?;
    let judged = async || {
        let other = if let Some(second) = &second { second.judged().await } else { 0.0 };
        flow.system.metric(Which::Callback, "countersign_checks_total").await.unwrap_or_default() + other
    };
    wait_until("it to judge", PATIENCE, async || judged().await > 0.0).await?;
    let (began, first) = (Instant::now(), judged().await);
    let all = f64::from(u32::try_from(CHECKS)?);
    wait_until("all to be judged", 3 * PATIENCE, async || judged().await >= all).await?;
    let took = began.elapsed().max(Duration::from_millis(1)).as_secs_f64();
    flow.queue_reaches("countersign.checks", 0).await?;
    let peak_mib = peak_mib(&flow)?;
    drop(second);
    // A session's counts are complete when it has ended.
    flow.system.stop(Which::Callback).await?;
    let asked = transactions(&flow).await? - before;
    flow.finish().await?;
    let batches = all / f64::from(u32::try_from(BATCH)?);
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let transactions_a_batch = asked as f64 / batches.max(1.0);
    Ok(Cost { per_second: (all - first) / took, transactions_a_batch, peak_mib })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a test; it prints"]
async fn measured() -> anyhow::Result<()> {
    println!("{CHECKS} due checks in batches of {BATCH}, PostgreSQL, {RUNS} runs: median (range)");
    let mut run = 1;
    for (what, signed) in [("all are signed", true), ("none is, and all are armed again", false)] {
        for replicas in [1, 2] {
            let mut costs = Vec::new();
            for _ in 0..RUNS {
                costs.push(judge(signed, replicas, run).await?);
                run += 1;
            }
            let mut rates: Vec<f64> = costs.iter().map(|cost| cost.per_second).collect();
            rates.sort_by(f64::total_cmp);
            let (asked, mib) = (costs[0].transactions_a_batch, costs.iter().map(|cost| cost.peak_mib).max().unwrap_or(0));
            println!(
                "{what}, {replicas} callback(s): {:.0} ({:.0} to {:.0}) a second, {asked:.1} transactions a batch, {mib} MiB at most",
                rates[RUNS / 2],
                rates[0],
                rates[RUNS - 1]
            );
        }
    }
    Ok(())
}
