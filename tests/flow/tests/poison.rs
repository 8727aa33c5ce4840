//! One message among thousands kills the process that handles it, every time.

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, Ledger, PATIENCE, Setup, counted_twice, order};
use countersign_launcher::{Extras, Running, SUBSCRIPTION, Which, wait_until};
use countersign_wire::proto::{NewMessage, SendMessageRequest};

/// Healthy messages of one call.
const CALL: u32 = 303;
/// Crashes that a message may cause; one more, and it is poison.
const MAX_CRASHES: usize = 3;
/// What the handler of `crasher` dies of.
const POISON: &str = "poison";

/// Makes so many calls, and sends the poison after a third of them; tells the healthy ids and the poisonous one.
async fn send_all(flow: &Flow, calls: u32) -> anyhow::Result<(Vec<String>, String)> {
    let mut healthy = Vec::new();
    let mut poison = None;
    for call in 0..calls {
        if call == calls / 3 {
            let message = NewMessage { body: POISON.into(), idempotency_key: POISON.into(), ..order(0) };
            let answer = flow.upstream().await?.send_message(SendMessageRequest { message: Some(message) }).await?;
            poison = answer.into_inner().accepted;
        }
        healthy.extend(flow.send(call * CALL, CALL).await?);
    }
    Ok((healthy, poison.context("the poison was not accepted")?.id))
}

async fn one_poison(name: &str, calls: u32) -> anyhow::Result<()> {
    let extras = Extras { downstream: format!("max_crashes = {MAX_CRASHES}"), ..Extras::default() };
    let mut flow = Flow::with_extras(name, Setup { postgres: false, max_batch: 256 }, extras).await?;
    flow.start(&[Which::Callback, Which::Upstream]).await?;
    flow.system.handled_in_process()?;
    let (healthy, poison) = send_all(&flow, calls).await?;

    // What a supervisor does. What a dead process had claimed goes behind everybody else, who come first.
    let mut crashes = 0;
    loop {
        flow.system.spawn_as(Which::Downstream, "crasher", "")?;
        let is_over = async || {
            let alive = flow.system.process(Which::Downstream).is_ok_and(Running::is_alive);
            !alive || flow.dead_letters(SUBSCRIPTION).await.is_ok_and(|letters| !letters.is_empty())
        };
        wait_until("a crash, or the end of the poison", 3 * PATIENCE, is_over).await?;
        if flow.system.process(Which::Downstream)?.is_alive() {
            break;
        }
        crashes += 1;
        ensure!(crashes <= MAX_CRASHES + 1, "it crashed {crashes} times");
    }
    ensure!(crashes == MAX_CRASHES + 1, "it was taken for poison after {crashes} crashes");

    // The poison is with a human, and everybody else is done: none dead, parked or tried again.
    flow.all_in_state(std::slice::from_ref(&poison), "parked").await?;
    flow.all_signed(&healthy).await?;
    let deliveries = flow.deliveries().await?;
    ensure!(deliveries.len() == healthy.len() + 1, "{} deliveries", deliveries.len());
    let parked = deliveries.iter().find(|delivery| delivery.message_id == poison).context("the poison is not there")?;
    ensure!(parked.reason.starts_with("poison: "), "it is parked as {}", parked.reason);
    flow.dead_letters_reach(SUBSCRIPTION, 1).await?;
    flow.queue_reaches(&format!("{SUBSCRIPTION}.limit"), 0).await?;
    flow.queue_reaches(SUBSCRIPTION, 0).await?;
    let log = flow.system.log_of(Which::Downstream)?;
    ensure!(!log.contains("retrying later"), "a healthy message was tried again");
    ensure!(log.matches("will not be handled").count() == 1, "others were given up, too");

    // One effect each, but for those that the first crash interrupted between effect and mark; each of them is counted.
    let effects = Ledger::open(&flow.ground.path("crasher.db")).await?.effects().await?;
    ensure!(!effects.contains_key(&poison) && effects.len() == healthy.len(), "{} had effects", effects.len());
    let counted = counted_twice(&log);
    let mut extra = 0;
    for (id, times) in &effects {
        let of_this = counted.iter().filter(|other| *other == id).count();
        ensure!(times.len() <= 1 + of_this, "{id} had {} effects, counted {of_this} times", times.len());
        extra += times.len() - 1;
    }
    println!("{crashes} crashes, {extra} extra effects, {} possible duplicates counted", counted.len());
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_one_poison_among_two_thousand_stops_nobody_and_is_parked() -> anyhow::Result<()> {
    one_poison("poison", 6).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_one_poison_among_ten_thousand_stops_nobody_and_is_parked() -> anyhow::Result<()> {
    if std::env::var_os("COUNTERSIGN_LONG").is_none() {
        println!("skipped: this one takes minutes; run it with tests/run --long, or COUNTERSIGN_LONG=1");
        return Ok(());
    }
    one_poison("poison_long", 33).await
}
