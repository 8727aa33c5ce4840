//! Callback was away while everything fell due. Of two upstreams one is dead, and a part of the messages of both is lost.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_flow::{CHECK_DELAY_MS, Flow, PATIENCE, Setup};
use countersign_launcher::{Extras, SUBSCRIPTION, Which, wait_until};
use tokio::time::Instant;

use super::bank::{BANK, Bank};
use super::stand_in::{Manner, StandIn};
use super::{is_long, peak_mib, reached_through, seconds, send_to, transactions};

/// The first orders of the second upstream.
const BANKS: u32 = 1_000_000;
/// The most memory that callback may take, MiB, of a debug build.
const MOST_MIB: u64 = 150;
/// What else asks MSG DB: the sweep, the probes' timer, readiness; a second.
const ASKED_A_SECOND: f64 = 20.0;
/// How far the arrival of a call may lag behind its leave, seconds.
const LAG_S: f64 = 0.5;

/// How large a storm is.
struct Size {
    /// Messages of each upstream.
    messages: u32,
    /// Of which so many are lost.
    lost: u32,
    /// Orders a second, and at once.
    rate: Option<u32>,
    patience: Duration,
}

/// The messages of one upstream.
struct Sent {
    lost: BTreeSet<String>,
    all: Vec<String>,
}

/// Everything that takes part.
struct Storm {
    flow: Flow,
    bank: Bank,
    to_shop: StandIn,
    to_bank: StandIn,
}

impl Storm {
    async fn of(test: &str, rate: Option<u32>) -> anyhow::Result<Self> {
        let extras = Extras { downstream: "concurrency = 32\nprefetch = 512".into(), ..Extras::default() };
        let mut flow = Flow::with_extras(test, Setup { postgres: true, max_batch: 256 }, extras).await?;
        let mut bank = Bank::of(&flow).await?;
        let to_shop = StandIn::before(&flow.system.grpc_url(Which::Upstream), Manner::Forwards)?;
        let to_bank = StandIn::before(bank.grpc_url(), Manner::Hangs)?;
        reached_through(&flow, &[("shop", &to_shop), (BANK, &to_bank)])?;
        let rate = rate.map(|rate| format!("resend_rate_per_s = {rate}\nresend_burst = {rate}")).unwrap_or_default();
        flow.configure(
            Which::Callback,
            "[callback]",
            &format!("breaker_failures = 3\nbreaker_open_ms = {CHECK_DELAY_MS}\n{rate}"),
        )?;
        flow.start(&[Which::Upstream]).await?;
        bank.start().await?;
        Ok(Self { flow, bank, to_shop, to_bank })
    }

    /// Sends everything, the lost first; waits until the rest has had its effect and its checks are due.
    async fn gather(&mut self, size: &Size) -> anyhow::Result<[Sent; 2]> {
        let upstreams = [(self.flow.system.grpc_url(Which::Upstream), 0), (self.bank.grpc_url().to_owned(), BANKS)];
        let mut sent = Vec::new();
        for (url, first) in &upstreams {
            sent.push(send_to(url, *first, size.lost).await?);
        }
        self.flow.queue_reaches(SUBSCRIPTION, 2 * size.lost).await?;
        let lost = self.flow.ground.purge(SUBSCRIPTION).await?;
        ensure!(lost == 2 * size.lost, "{lost} were lost");
        self.flow.start(&[Which::Downstream]).await?;
        let mut all = Vec::new();
        for ((url, first), lost) in upstreams.iter().zip(sent) {
            let kept = send_to(url, first + size.lost, size.messages - size.lost).await?;
            all.push(Sent { lost: lost.iter().cloned().collect(), all: [lost, kept].concat() });
        }
        self.effects_reach(2 * (size.messages - size.lost), size.patience).await?;
        self.bank.kill9();
        self.flow.queue_reaches(&format!("countersign.checks.{CHECK_DELAY_MS}"), 0).await?;
        all.try_into().ok().context("two upstreams")
    }

    async fn effects_reach(&self, effects: u32, patience: Duration) -> anyhow::Result<()> {
        let reached = async || self.flow.system.look().counts().await.is_ok_and(|had| had.effects >= u64::from(effects));
        wait_until(&format!("{effects} effects"), patience, reached).await
    }

    /// What is due has been judged: nothing waits, and nothing is held.
    async fn worked_off(&self, size: &Size) -> anyhow::Result<()> {
        let judged = async || {
            let checks = self.flow.system.metric(Which::Callback, "countersign_checks_total").await.unwrap_or_default();
            let waiting = self.flow.ground.queue_depth("countersign.checks").await.unwrap_or(u32::MAX);
            checks >= f64::from(2 * size.messages) && waiting == 0
        };
        wait_until("everything to be judged", size.patience, judged).await
    }
}

async fn storm(test: &str, size: Size) -> anyhow::Result<()> {
    let mut storm = Storm::of(test, size.rate).await?;
    let [shop, bank] = storm.gather(&size).await?;
    let (due, receipts) = (storm.flow.ground.queue_depth("countersign.checks").await?, {
        storm.flow.ground.queue_depth("countersign.receipts").await?
    });
    println!("{} messages: {due} batches of checks are due, {receipts} of receipts wait", 2 * size.messages);
    ensure!(storm.to_shop.count() == (0, 0), "somebody called before callback");

    let began = Instant::now();
    storm.flow.start(&[Which::Callback]).await?;
    let before = transactions(&storm.flow).await?;
    storm.worked_off(&size).await?;
    println!("all judged after {} s", seconds(began.elapsed()));
    storm.effects_reach(2 * size.messages - size.lost, size.patience).await?;
    storm.flow.all_signed(&shop.all).await?;
    println!("what the live upstream had lost is done after {} s, the other one hangs", seconds(began.elapsed()));
    the_live_one_is_served_in_batches(&storm, &size)?;
    the_dead_one_has_spent_nothing(&storm, &bank).await?;
    let asked = transactions(&storm.flow).await? - before;
    let (mib, took) = (peak_mib(&storm.flow)?, began.elapsed().as_secs_f64());
    println!("MSG DB has had {asked} transactions, callback {mib} MiB at most");
    let due = f64::from(due + receipts);
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let asked = asked as f64;
    ensure!(asked <= 10.0 * due + ASKED_A_SECOND * took, "{asked} transactions for {due} batches in {took} s");
    ensure!(mib <= MOST_MIB, "callback took {mib} MiB");

    let began = Instant::now();
    storm.bank.start().await?;
    storm.to_bank.will(Manner::Forwards);
    storm.effects_reach(2 * size.messages, size.patience).await?;
    storm.flow.all_signed(&bank.all).await?;
    println!("what the dead upstream had lost is done {} s after it came back", seconds(began.elapsed()));
    finish(storm, [shop, bank]).await
}

/// As few calls as the rate and the portions allow, each message once, and never more a second than allowed.
fn the_live_one_is_served_in_batches(storm: &Storm, size: &Size) -> anyhow::Result<()> {
    let (calls, orders) = storm.to_shop.count();
    println!("{orders} orders in {calls} calls");
    ensure!(orders == usize::try_from(size.lost)?, "{orders} orders for {} lost messages", size.lost);
    if let Some(rate) = size.rate {
        let rate = f64::from(rate);
        let excess = storm.to_shop.excess(rate, rate);
        println!("at most {excess:.1} orders above {rate} at once and {rate} a second");
        ensure!(excess <= rate * LAG_S, "{excess} orders more than the rate allows");
    } else {
        ensure!(calls * 5 <= orders, "{calls} calls for {orders} orders");
    }
    Ok(())
}

/// Its messages wait, at the try they were at: whoever could be called was, and each call that hung was for the same try.
async fn the_dead_one_has_spent_nothing(storm: &Storm, bank: &Sent) -> anyhow::Result<()> {
    let deliveries = storm.flow.deliveries().await?;
    let lost: Vec<_> = deliveries.iter().filter(|delivery| bank.lost.contains(&delivery.message_id)).collect();
    for delivery in &lost {
        let number = delivery.attempt.as_ref().map_or(0, |attempt| attempt.number);
        ensure!(number == 2 && delivery.state == "resending", "{delivery:?}");
    }
    storm.flow.system.process(Which::Callback)?.wait_for_log("the breaker opened", PATIENCE).await?;
    let (calls, orders) = storm.to_bank.count();
    println!("{calls} calls with {orders} orders hang or have failed; {} of {} are ordered", lost.len(), bank.lost.len());
    Ok(())
}

async fn finish(storm: Storm, sent: [Sent; 2]) -> anyhow::Result<()> {
    let ids: Vec<String> = sent.iter().flat_map(|sent| sent.all.iter().cloned()).collect();
    storm.flow.each_effected_once(&ids).await?;
    for delivery in storm.flow.deliveries().await? {
        let was_lost = sent.iter().any(|sent| sent.lost.contains(&delivery.message_id));
        let number = delivery.attempt.as_ref().map_or(0, |attempt| attempt.number);
        ensure!(number == 1 + u32::from(was_lost) && delivery.state == "done", "{delivery:?}");
    }
    let log = storm.flow.system.log_of(Which::Callback)?;
    ensure!(!log.contains("cannot go on yet"), "something was held up");
    storm.flow.finish().await
}

/// Two in a hundred are lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_twenty_thousand_are_judged_at_once_while_one_upstream_is_dead() -> anyhow::Result<()> {
    storm("storm", Size { messages: 10_000, lost: 200, rate: None, patience: 3 * PATIENCE }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_a_hundred_thousand_are_judged_at_once_while_one_upstream_is_dead() -> anyhow::Result<()> {
    if !is_long() {
        return Ok(());
    }
    storm("storm_long", Size { messages: 50_000, lost: 1_000, rate: None, patience: 20 * PATIENCE }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_is_ordered_no_more_a_second_than_is_allowed() -> anyhow::Result<()> {
    storm("storm_rate", Size { messages: 1_000, lost: 200, rate: Some(20), patience: 2 * PATIENCE }).await
}
