//! How well callback's verdicts fit what has happened: among many messages some are lost, some lose their receipts, some are slow, all by real
//! faults at the broker and in the handler. Exactly the first two kinds are sent again, once; nothing has a second effect; and on PostgreSQL
//! one reconciliation certifies every message.

mod journal;
mod limbo;
mod plan;
mod reconciled;
mod sender;
mod verdicts;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_delivery::MessageId;
use countersign_flow::{CHECK_DELAY_MS, Flow, PATIENCE, Setup};
use countersign_launcher::{Extras, SUBSCRIPTION, Which, wait_until};
use countersign_wire::proto::ListDeliveriesRequest;
use tokio::time::Instant;

use journal::Journal;
use limbo::Limbo;
use plan::Plan;
use verdicts::Books;

/// Of the short runs.
const SHORT: u32 = 20_000;
/// Of the long run, unless `COUNTERSIGN_MESSAGES` says otherwise.
const LONG: u32 = 1_000_000;
/// Enough handlers at a time for the slow ones and the others beside them.
const EXTRAS: &str = "concurrency = 512\nprefetch = 1000";
/// Deliveries that callback tells of at a time.
const PAGE: u32 = 1_000;
/// Messages whose history is read: by what evidence they were sent again.
const EVIDENCE: usize = 100;

/// Waits until nothing is on its way: no message, no receipt, no check.
async fn all_queues_empty(flow: &Flow) -> anyhow::Result<()> {
    let checks = [CHECK_DELAY_MS / 2, CHECK_DELAY_MS, 2 * CHECK_DELAY_MS].map(|delay| format!("countersign.checks.{delay}"));
    let retries = flow.system.retry_delays_ms().map(|delay| format!("{SUBSCRIPTION}.retry.{delay}"));
    let others = [SUBSCRIPTION, "countersign.receipts", "countersign.checks"].map(str::to_owned);
    for queue in others.iter().chain(&retries).chain(&checks) {
        flow.queue_reaches(queue, 0).await?;
    }
    Ok(())
}

/// The latest try of every message, once callback has all of them as done and no check is on its way.
async fn attempts(flow: &Flow, messages: usize, patience: Duration) -> anyhow::Result<BTreeMap<MessageId, u32>> {
    let (mut done, mut unlike) = (BTreeMap::new(), None);
    let all = wait_until("every message to be signed", patience, async || {
        let Ok(()) = all_queues_empty(flow).await else { return false };
        let Ok((found, other)) = standing(flow).await else { return false };
        (done, unlike) = (found, other);
        done.len() == messages && unlike.is_none()
    });
    all.await.with_context(|| format!("{} of {messages} are; one that is not: {unlike:?}", done.len()))?;
    Ok(done)
}

/// The latest try of every message that callback has as done, and one delivery that it has otherwise.
async fn standing(flow: &Flow) -> anyhow::Result<(BTreeMap<MessageId, u32>, Option<String>)> {
    let mut callback = flow.callback().await?;
    let (mut done, mut unlike) = (BTreeMap::new(), None);
    let mut page_token = String::new();
    loop {
        let request = ListDeliveriesRequest { page_size: PAGE, page_token, ..Default::default() };
        let page = callback.list_deliveries(request).await?.into_inner();
        for delivery in page.deliveries {
            if delivery.state == "done" {
                done.insert(MessageId::parse(&delivery.message_id)?, delivery.attempt.unwrap_or_default().number);
            } else {
                unlike = Some(format!("{} {}", delivery.message_id, delivery.state));
            }
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok((done, unlike));
        }
    }
}

async fn verdicts_fit(test: &str, postgres: bool, messages: u32, seed: u64, patience: Duration) -> anyhow::Result<()> {
    println!("seed {seed}: {messages} messages; COUNTERSIGN_SEED={seed} repeats it");
    let plan = Plan::of(messages, seed);
    let extras = Extras { downstream: EXTRAS.into(), ..Extras::default() };
    let mut flow = Flow::with_extras(test, Setup { postgres, max_batch: 256 }, extras).await?;
    flow.system.handled_in_process()?;
    flow.start(&[Which::Callback, Which::Upstream]).await?;
    flow.system.spawn_as(Which::Downstream, "journal", "")?;
    flow.system.ready(Which::Downstream).await?;
    let mut limbo = Limbo::beside(&flow, test).await?;

    let journal = Journal(flow.ground.path("journal.txt"));
    let began = Instant::now();
    let ids = sender::send(&flow.system.grpc_url(Which::Upstream), &plan, &journal, patience).await?;
    let all = async || journal.effects().is_ok_and(|effects| effects >= u64::from(messages));
    wait_until("every message to have its effect", patience, all).await.with_context(|| format!("{:?}", journal.effects()))?;
    let took = began.elapsed();
    let attempts = attempts(&flow, ids.len(), patience).await?;
    limbo.stop().await?;

    let books = Books {
        sent: ids.into_iter().zip(plan.fates()).collect(),
        lost: limbo.lost(&flow).await?,
        unsigned: limbo.unsigned().await?,
        effects: journal.read()?,
        attempts,
    };
    let table = books.table(seed, if postgres { "PostgreSQL" } else { "SQLite" }, took, flow.judged("wait").await?);
    println!("{table}");
    ensure!(table.is_late(), "not all that should be late were:\n{table}");
    books.agree()?;
    ensure!(table.precision() >= 1.0 && table.recall() >= 1.0, "precision or recall is not 1:\n{table}");
    for id in books.resent().into_iter().take(EVIDENCE) {
        let told = flow.told(&id.to_string(), SUBSCRIPTION).await?;
        ensure!(told.first().is_some_and(|said| said.what == "resending" && said.why.starts_with("lost: ")), "{id}: {told:?}");
    }
    if postgres {
        println!("{}", reconciled::all(&flow, &books.sent, patience).await?);
    }
    flow.finish().await
}

fn number<T: std::str::FromStr>(variable: &str) -> anyhow::Result<Option<T>> {
    let Ok(text) = std::env::var(variable) else { return Ok(None) };
    Ok(Some(text.parse().ok().with_context(|| format!("{variable} is {text:?}: give a whole number"))?))
}

fn seed() -> anyhow::Result<u64> {
    Ok(number("COUNTERSIGN_SEED")?.unwrap_or_else(|| fastrand::u64(1..1_000_000)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_exactly_what_is_lost_is_sent_again_on_sqlite() -> anyhow::Result<()> {
    verdicts_fit("million_sqlite", false, SHORT, seed()?, 2 * PATIENCE).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_exactly_what_is_lost_is_sent_again_on_postgres() -> anyhow::Result<()> {
    verdicts_fit("million_postgres", true, SHORT, seed()?, 2 * PATIENCE).await
}

/// `COUNTERSIGN_MESSAGES` makes it smaller or larger, `COUNTERSIGN_SEED` repeats a run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_a_million_are_judged_without_a_mistake() -> anyhow::Result<()> {
    if std::env::var_os("COUNTERSIGN_LONG").is_none() {
        println!("skipped: this one takes up to an hour; run it with tests/run --long, or COUNTERSIGN_LONG=1");
        return Ok(());
    }
    let messages = number("COUNTERSIGN_MESSAGES")?.unwrap_or(LONG);
    verdicts_fit("million", true, messages, seed()?, Duration::from_hours(1)).await
}
