//! Round trips to Redis per message: a measurement, not a test; it prints. On servers that nobody else uses:
//!
//! ```sh
//! cargo build --workspace --bins --examples --features countersign-boot/failpoints
//! target/debug/with-servers rabbitmq redis postgres -- cargo nextest run --workspace --test flow \
//!   --features countersign-boot/failpoints --run-ignored only --no-capture -E 'test(~round_trips::measured)'
//! ```

use std::time::{Duration, Instant};

use anyhow::ensure;
use countersign_flow::{Flow, PATIENCE, Setup, order};
use countersign_launcher::{Extras, SUBSCRIPTION, Which, wait_until};
use countersign_wire::proto::send_result::Result as Sent;
use countersign_wire::proto::{NewMessage, SendMessagesRequest};

const BATCH: u32 = 500;
const BODY_BYTES: usize = 256;
const RUNS: usize = 3;
const CALLS: [&str; 4] = ["claim", "renew", "complete", "release"];

/// What one queue cost to drain.
#[derive(Clone, Copy, Debug)]
struct Cost {
    round_trips: f64,
    per_second: f64,
}

/// Fills the work queue, then starts a consumer and waits until it is drained.
async fn drain(program: &str, concurrency: u32, messages: u32) -> anyhow::Result<Cost> {
    let downstream = format!("concurrency = {concurrency}\nprefetch = 256");
    let setup = Setup { postgres: false, max_batch: 256 };
    let mut flow = Flow::with_extras("round_trips", setup, Extras { downstream, ..Extras::default() }).await?;
    flow.start(&[Which::Upstream]).await?;
    fill(&flow, messages).await?;
    if program != Which::Downstream.binary() {
        // The handler is in the program, so the configuration names no endpoint.
        let file = flow.ground.path("downstream.toml");
        let text = std::fs::read_to_string(&file)?;
        std::fs::write(&file, text.split("[[downstream.subscription]]").next().unwrap_or_default())?;
    }
    flow.system.spawn_as(Which::Downstream, program, "")?;
    wait_until("it to consume", PATIENCE, async || settled(&flow).await > 0.0).await?;
    let (started, before) = (Instant::now(), settled(&flow).await);
    wait_until("it to be drained", PATIENCE * 2, async || settled(&flow).await >= f64::from(messages)).await?;
    let seconds = started.elapsed().max(Duration::from_millis(1)).as_secs_f64();
    let mut round_trips = 0.0;
    for call in CALLS {
        let label = format!("call=\"{call}\"");
        round_trips += flow.system.look().metric(Which::Downstream, "countersign_redis_round_trips_total", &label).await?;
    }
    flow.finish().await?;
    Ok(Cost { round_trips: round_trips / f64::from(messages), per_second: (f64::from(messages) - before) / seconds })
}

async fn fill(flow: &Flow, messages: u32) -> anyhow::Result<()> {
    let mut upstream = flow.upstream().await?;
    for batch in 0..messages / BATCH {
        let message = |n| NewMessage { body: vec![b'x'; BODY_BYTES].into(), idempotency_key: String::new(), ..order(n) };
        let messages = (0..BATCH).map(|n| message(batch * BATCH + n)).collect();
        let results = upstream.send_messages(SendMessagesRequest { messages }).await?.into_inner().results;
        ensure!(results.iter().all(|result| matches!(result.result, Some(Sent::Accepted(_)))), "not all were accepted");
    }
    flow.queue_reaches(SUBSCRIPTION, messages).await
}

async fn settled(flow: &Flow) -> f64 {
    flow.system.metric(Which::Downstream, "countersign_consume_total").await.unwrap_or(0.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a test; it prints"]
async fn measured() -> anyhow::Result<()> {
    const MESSAGES: u32 = 4_000;
    println!("{MESSAGES} messages of {BODY_BYTES} bytes, {RUNS} runs: median (range)");
    for (program, concurrency) in [("downstream", 32), ("downstream", 256), ("inventory", 32), ("inventory", 256)] {
        let mut costs = Vec::new();
        for _ in 0..RUNS {
            costs.push(drain(program, concurrency, MESSAGES).await?);
        }
        let figure = |of: fn(&Cost) -> f64, digits: usize| {
            let mut sorted: Vec<f64> = costs.iter().map(of).collect();
            sorted.sort_by(f64::total_cmp);
            format!("{:.digits$} ({:.digits$} to {:.digits$})", sorted[RUNS / 2], sorted[0], sorted[RUNS - 1])
        };
        let (round_trips, per_second) = (figure(|cost| cost.round_trips, 3), figure(|cost| cost.per_second, 0));
        println!("{program}, {concurrency} handlers: {round_trips} round trips a message, {per_second} messages/s");
    }
    Ok(())
}
