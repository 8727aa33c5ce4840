//! The broker loses its disk under load: messages, checks, receipts, queues and bindings are gone. Only the databases and Redis are left.
//!
//! What a message can lose with it is all there: it waits in the work queue and its check in a tier (nobody has heard of it); it is handled
//! and its receipt is still in a queue (callback has not heard of it); it is signed for and only its check is lost; it is accepted while no
//! broker is there. Messages flow all the time. Then one `countersign reconcile`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, PATIENCE};
use countersign_launcher::{RabbitMq, SUBSCRIPTION, Which, wait_until};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::interval;

use crate::bad_input::private::{Own, flow, ready, unready};
use crate::command::expect;

/// The virtual host, which the broker forgets, too.
const VHOST: &str = "shop";
/// Messages in one call of the steady load, and between two calls.
const CALL: u32 = 10;
const PACE: Duration = Duration::from_millis(100);
/// Messages that are sent, and handled at full speed, before anything is disturbed.
const FIRST: u32 = 1_000;
/// Of the load: at least so many wait in the work queue when the broker dies, and so many are accepted while it is away and after it is back.
const WAITING: u32 = 300;
const AWAY: usize = 300;
const AFTER: usize = 300;
/// How slow the handler is when the broker dies, milliseconds; so many are handled at a time.
const SLOW_MS: u64 = 200;
const CONCURRENCY: u32 = 4;
/// What two services have unsettled at most: what a broker has pushed to them is theirs to finish, and would not be lost.
const PREFETCH: u32 = 8;
/// A minute has to end before it is compared, and this machine may be busy.
const A_MINUTE_AND_MORE: Duration = Duration::from_secs(150);

/// The sender's own books: ids in the order in which they were accepted.
#[derive(Default)]
struct Sender {
    accepted: Mutex<Vec<String>>,
    is_over: AtomicBool,
}

impl Sender {
    fn accepted(&self) -> MutexGuard<'_, Vec<String>> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends orders from `first` on until it is over; each call is repeated under its keys until it is accepted, as a caller does.
    async fn send(&self, flow: &Flow, first: u32) -> anyhow::Result<()> {
        let mut pace = interval(PACE);
        let mut number = first;
        while !self.is_over.load(Ordering::Relaxed) {
            pace.tick().await;
            wait_until("a send to be accepted", PATIENCE, async || {
                let Ok(ids) = flow.send(number, CALL).await else { return false };
                self.accepted().extend(ids);
                true
            })
            .await?;
            number += CALL;
        }
        Ok(())
    }

    async fn reaches(&self, count: usize) -> anyhow::Result<()> {
        let what = format!("{count} messages to be accepted");
        wait_until(&what, PATIENCE, async || self.accepted().len() >= count).await
    }
}

/// What there was when the broker died.
struct Before {
    accepted: usize,
    effected: BTreeSet<String>,
    /// Batches of checks, due or to come, and of receipts.
    checks: u32,
    receipts: u32,
    waiting: u32,
}

/// A broker of the test's own; the services only look at its topology, which the command alone declares.
async fn ground(test: &str, postgres: bool) -> anyhow::Result<(TempDir, RabbitMq, Flow)> {
    let dir = TempDir::new()?;
    let broker = RabbitMq::start(dir.path()).await?;
    broker.create_vhost(VHOST).await?;
    let flow = flow(test, Own { amqp: Some(broker.amqp_url(VHOST)), postgres, ..Own::default() }).await?;
    for which in Which::ALL {
        let file = flow.ground.path(&format!("{}.toml", which.name()));
        let configuration = std::fs::read_to_string(&file)?;
        ensure!(configuration.contains("apply = true"), "{} does not apply", file.display());
        std::fs::write(&file, configuration.replace("apply = true", "apply = false"))?;
        flow.configure(which, "[broker]", "reconnect_max_ms = 1000")?;
    }
    flow.configure(Which::Upstream, "[upstream]", "confirm_wait_ms = 100")?;
    // Nobody reconciles but the command.
    let keys = "reconcile_interval_ms = 0\nreceipts_prefetch = 1\nchecks_prefetch = 1\nchecks_in_flight = 1";
    flow.configure(Which::Callback, "[callback]", keys)?;
    flow.configure(Which::Downstream, "[downstream]", &format!("concurrency = {CONCURRENCY}\nprefetch = {PREFETCH}"))?;
    Ok((dir, broker, flow))
}

/// As a user would.
async fn apply_topology(flow: &Flow, broker: &RabbitMq) -> anyhow::Result<()> {
    let (file, url) = (flow.system.topology_file().display().to_string(), broker.amqp_url(VHOST));
    expect(flow, 0, &["topology", "apply", "--file", &file, "--amqp-url", &url]).await.map(drop)
}

/// Reconciles the last hour; the line of the only subscription of the only upstream, with its certificate.
async fn reconcile(flow: &Flow, code: i32, more: &[&str]) -> anyhow::Result<(Value, Value)> {
    let told = expect(flow, code, &[&["reconcile", "--since", "1h", "--by", "a test"], more].concat()).await?;
    let certificate = told["certificates"].get(0).context("callback knows no upstream")?.clone();
    ensure!(told["certificates"].as_array().is_some_and(|all| all.len() == 1), "{told}");
    Ok((certificate["lines"].get(0).cloned().unwrap_or_default(), certificate))
}

/// Waits until receipts pile up before a callback that stands still, and messages before a handler that is slow.
async fn pile_up(flow: &Flow, broker: &RabbitMq) -> anyhow::Result<()> {
    let holds = async |queue: &str, least: u32| {
        let what = format!("{queue} to hold {least}");
        wait_until(&what, PATIENCE, async || broker.queue_depth(VHOST, queue).await.is_ok_and(|depth| depth >= least)).await
    };
    flow.system.process(Which::Callback)?.pause()?;
    holds("countersign.receipts", 3).await?;
    flow.system.behave(&json!({ "delay_ms": SLOW_MS })).await?;
    holds(SUBSCRIPTION, WAITING).await
}

/// SIGKILL to the broker, and its data is deleted.
async fn lose(flow: &Flow, broker: &RabbitMq, sender: &Sender) -> anyhow::Result<Before> {
    pile_up(flow, broker).await?;
    let depth = async |queue: &str| broker.queue_depth(VHOST, queue).await;
    let checks = depth("countersign.checks").await? + depth("countersign.checks.1000").await?;
    let (receipts, waiting) = (depth("countersign.receipts").await?, depth(SUBSCRIPTION).await?);
    broker.kill9();
    let accepted = sender.accepted().len();
    broker.lose_data()?;
    let effected = flow.system.effects().await?.effects.into_keys().collect();
    flow.system.process(Which::Callback)?.resume()?;
    Ok(Before { accepted, effected, checks, receipts, waiting })
}

/// The empty broker comes back, and its operator gives it what it had: the virtual host, then the topology. The services find it by themselves.
async fn bring_back(flow: &Flow, broker: &mut RabbitMq) -> anyhow::Result<()> {
    unready(flow, &[Which::Downstream, Which::Callback], "broker", &["not connected to the broker"]).await?;
    broker.start_again().await?;
    unready(flow, &[Which::Downstream, Which::Callback], "broker", &["virtual host", "does not exist"]).await?;
    broker.create_vhost(VHOST).await?;
    unready(flow, &Which::ALL, "topology", &[SUBSCRIPTION]).await?;
    apply_topology(flow, broker).await?;
    flow.system.behave(&json!({})).await?;
    ready(flow).await
}

/// Every id that is named, and nothing else.
fn named(line: &Value) -> anyhow::Result<BTreeSet<String>> {
    let ids = line["missing_ids"].as_array().context("no missing ids")?;
    let ids: BTreeSet<String> = ids.iter().filter_map(|id| id.as_str().map(str::to_owned)).collect();
    ensure!(line["missing"] == ids.len(), "not every missing message is named: {line}");
    Ok(ids)
}

async fn effected(flow: &Flow) -> anyhow::Result<BTreeSet<String>> {
    Ok(flow.system.effects().await?.effects.into_keys().collect())
}

/// Waits until everything that was sent can be compared, by dry runs: nothing is checked by them.
async fn comparable(flow: &Flow, messages: usize) -> anyhow::Result<Value> {
    let mut last = Value::Null;
    let compared = wait_until("every minute to be compared", A_MINUTE_AND_MORE, async || {
        let Ok((line, certificate)) = reconcile(flow, 1, &["--dry-run"]).await else { return false };
        let all = line["stored"] == messages && line["not_compared"] == 0;
        last = if all { line } else { certificate };
        all
    });
    compared.await.with_context(|| last.to_string())?;
    Ok(last)
}

async fn everything_comes_through(test: &str, postgres: bool) -> anyhow::Result<()> {
    let (_dir, mut broker, mut flow) = ground(test, postgres).await?;
    apply_topology(&flow, &broker).await?;
    flow.start(&Which::ALL).await?;
    let sender = Sender::default();
    for first in (0..FIRST).step_by(500) {
        let ids = flow.send(first, 500).await?;
        sender.accepted().extend(ids);
    }
    flow.effects_reach(u64::from(FIRST)).await?;
    let first = sender.accepted().clone();
    flow.all_signed(&first).await?;

    let disturbance = async {
        let disturbed = async {
            let before = lose(&flow, &broker, &sender).await?;
            sender.reaches(before.accepted + AWAY).await?;
            bring_back(&flow, &mut broker).await?;
            let accepted = sender.accepted().len();
            sender.reaches(accepted + AFTER).await?;
            anyhow::Ok(before)
        };
        let outcome = disturbed.await;
        sender.is_over.store(true, Ordering::Relaxed);
        outcome
    };
    let (sent, before) = tokio::join!(sender.send(&flow, FIRST), disturbance);
    sent?;
    let (before, ids) = (before?, sender.accepted().clone());

    // By itself everything comes through that callback has heard of, or that upstream has not settled. The rest waits for the third net.
    let found = comparable(&flow, ids.len()).await?;
    let (missing, had) = (named(&found)?, effected(&flow).await?);
    let waited: BTreeSet<&String> = missing.difference(&had).collect();
    let unsigned = missing.intersection(&had).count();
    println!(
        "{} accepted: {} before the broker died, {} of them handled; lost with it {} waiting messages, {} batches of receipts, {} batches of \
         checks. Nobody had heard of {}, of which {} were never handled (message and check lost) and {unsigned} were (receipt and check lost)",
        ids.len(),
        before.accepted,
        before.effected.len(),
        before.waiting,
        before.receipts,
        before.checks,
        missing.len(),
        waited.len(),
    );
    ensure!(waited.len() >= 100 && unsigned > 0 && before.checks > 0, "too little was lost: {found}");
    ensure!(ids.iter().filter(|id| !had.contains(*id)).all(|id| waited.contains(id)), "one is lost and not missing: {found}");
    // The call that was under way may have been confirmed a moment before the broker died.
    let mut without_broker = ids.iter().skip(before.accepted + CALL as usize);
    ensure!(without_broker.all(|id| !waited.contains(id)), "accepted without a broker, and lost: {found}");

    let (line, certificate) = reconcile(&flow, 1, &[]).await?;
    ensure!(certificate["state"] == "differs" && named(&line)? == missing, "{certificate}");
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    let (line, certificate) = reconcile(&flow, 0, &[]).await?;
    ensure!(certificate["state"] == "certified", "{certificate}");
    ensure!(line["stored"] == ids.len() && line["verified"] == ids.len(), "{certificate}");
    flow.no_invariant_was_violated()?;
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqlite() -> anyhow::Result<()> {
    everything_comes_through("broker_lost_sqlite", false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres() -> anyhow::Result<()> {
    everything_comes_through("broker_lost_postgres", true).await
}
