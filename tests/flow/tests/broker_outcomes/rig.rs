//! Timed sends, and a system on a broker of its own.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_flow::{CHECK_DELAY_MS, Flow, PATIENCE, order};
use countersign_launcher::{Extras, Ground, RabbitMq, System, Which, Wiring, wait_until};
use countersign_wire::proto::{Accepted, NewMessage, SendMessageRequest, SendState};
use tempfile::TempDir;
use tokio::time::Instant;

/// How long a committed send waits for the broker here, milliseconds.
pub const CONFIRM_WAIT_MS: u64 = 500;
/// What a busy machine may add to it.
pub const MARGIN: Duration = Duration::from_secs(2);

/// A broker of the test's own, with the services wired to it.
pub struct Private {
    pub broker: RabbitMq,
    pub flow: Flow,
    /// The broker's files: drop it last.
    pub dir: TempDir,
}

/// Starts a broker and wires the services to it; starts none.
pub async fn private(test: &str, upstream: &str) -> anyhow::Result<Private> {
    let dir = TempDir::new()?;
    let broker = RabbitMq::start(dir.path()).await?;
    let ground = Ground::new(test).await?;
    let wiring = Wiring {
        dir: ground.dir().to_owned(),
        amqp: broker.amqp_url("/"),
        redis: ground.redis_url().to_owned(),
        upstream_database: ground.sqlite("upstream"),
        callback_database: ground.sqlite("msg"),
        max_batch: 256,
        check_delay_ms: CHECK_DELAY_MS,
        handler_mode: "count",
        otlp: None,
    };
    let system = System::prepare_with(wiring, extras(upstream)).await?;
    Ok(Private { broker, flow: Flow { system, ground }, dir })
}

/// Short waits, and these keys of upstream's section.
pub fn extras(upstream: &str) -> Extras {
    Extras {
        upstream: format!("confirm_wait_ms = {CONFIRM_WAIT_MS}\n{upstream}"),
        broker: "confirm_timeout_ms = 3000\nreconnect_max_ms = 1000\nheartbeat_s = 2".into(),
        ..Extras::default()
    }
}

/// Sends one message and asserts that its answer comes in time.
pub async fn send(flow: &Flow, message: NewMessage) -> anyhow::Result<Accepted> {
    let mut upstream = flow.upstream().await?;
    let started = Instant::now();
    let answer = upstream.send_message(SendMessageRequest { message: Some(message) }).await;
    let (took, bound) = (started.elapsed(), Duration::from_millis(CONFIRM_WAIT_MS) + MARGIN);
    ensure!(took <= bound, "the answer took {took:?}: {answer:?}");
    answer?.into_inner().accepted.context("no answer")
}

/// Sends orders `first..first + count` one by one, each answered in time and with this state.
pub async fn all_are(flow: &Flow, state: SendState, first: u32, count: u32) -> anyhow::Result<Vec<String>> {
    let mut ids = Vec::new();
    for number in first..first + count {
        let accepted = send(flow, order(number)).await?;
        ensure!(accepted.state() == state, "order {number} is {:?} instead of {state:?}", accepted.state());
        ids.push(accepted.id);
    }
    Ok(ids)
}

/// Waits until the broker's answers have been of this outcome at least once more than `before`.
pub async fn has_fired(flow: &Flow, outcome: &str, before: f64) -> anyhow::Result<()> {
    wait_until(&format!("a publish to be {outcome}"), PATIENCE, async || {
        published(flow, outcome).await.is_ok_and(|count| count > before)
    })
    .await
}

/// How many publishes of upstream had this outcome.
pub async fn published(flow: &Flow, outcome: &str) -> anyhow::Result<f64> {
    flow.system.look().metric(Which::Upstream, "countersign_publish_total", &format!("outcome=\"{outcome}\"")).await
}

/// Every one of them is signed for and handled once; ends the services.
pub async fn finish(flow: Flow, ids: &[String]) -> anyhow::Result<()> {
    flow.all_signed(ids).await?;
    flow.each_effected_once(ids).await?;
    flow.finish().await
}
