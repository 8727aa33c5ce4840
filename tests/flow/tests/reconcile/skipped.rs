//! A paused subscription is skipped, an upstream that is away is told of, and neither has anything sent again; as the command says it, to
//! people and to programs.

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, PATIENCE, Setup, standings_at};
use countersign_launcher::{SUBSCRIPTION, Which, binary, wait_until};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use super::A_MINUTE_AND_MORE;
use crate::command::{countersign, expect};
use crate::storm::bank::{BANK, Bank};
use crate::storm::send_to;

/// The shop's messages that are signed for before the pause, and those that wait behind it; the bank's are all signed for.
const SIGNED: u32 = 10;
const PAUSED: u32 = 20;
const BANKS: u32 = 5;
const LAST_HOUR: [&str; 3] = ["reconcile", "--since", "1h"];

/// What the command says, and how it ends.
async fn reconciled(flow: &Flow, arguments: &[&str]) -> anyhow::Result<(Value, i32)> {
    let output = countersign(flow, arguments).await?;
    let said = String::from_utf8_lossy(&output.stdout);
    let told = serde_json::from_str(&said).with_context(|| format!("{arguments:?} says {output:?}"))?;
    Ok((told, output.status.code().context("it was killed")?))
}

/// The certificate of an upstream.
fn of<'a>(told: &'a Value, upstream: &str) -> anyhow::Result<&'a Value> {
    let found = told["certificates"].as_array().and_then(|all| all.iter().find(|one| one["upstream"] == upstream));
    found.with_context(|| format!("no certificate of {upstream}: {told}"))
}

/// The same for people.
async fn in_words(flow: &Flow, arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(binary("countersign")?);
    command.args(["--callback", &flow.system.grpc_url(Which::Callback)]).args(arguments).kill_on_drop(true);
    Ok(String::from_utf8(timeout(PATIENCE, command.output()).await??.stdout)?)
}

/// Text and JSON tell the same of a certificate.
fn says_the_same(text: &str, certificate: &Value) -> anyhow::Result<()> {
    let word = |of: &Value, key: &str| of[key].as_str().unwrap_or_default().to_owned();
    let mut lines = vec![format!("upstream {}: {}", word(certificate, "upstream"), word(certificate, "state"))];
    for line in certificate["lines"].as_array().context("no lines")? {
        let sums = format!(
            "stored {} = verified {} + in flight {} + parked {} + discarded {}, missing {}",
            line["stored"], line["verified"], line["in_flight"], line["parked"], line["discarded"], line["missing"]
        );
        let skipped = if line["not_compared"] == 0 { String::new() } else { format!(", not compared {}", line["not_compared"]) };
        lines.push(format!("  {} {}: {sums}{skipped}\n", word(line, "subscription"), word(line, "state")));
    }
    if certificate["detail"] != "" {
        lines.push(format!("  note: {}", word(certificate, "detail")));
    }
    for line in lines {
        ensure!(text.contains(&line), "{line:?} is not in:\n{text}\nof {certificate}");
    }
    Ok(())
}

async fn nothing_was_resent(flow: &Flow) -> anyhow::Result<()> {
    let resends = flow.system.metric(Which::Callback, "countersign_resend_orders_total").await?;
    ensure!(resends == 0.0, "{resends} were ordered to be sent again");
    Ok(())
}

/// Waits until the command ends with this code, says this of the shop, and has all of the bank's; what it told. The two need not have come to
/// the end of the same minute.
async fn comes_to(flow: &Flow, code: i32, holds: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    let mut last = (Value::Null, 0);
    let look = async || {
        last = reconciled(flow, &LAST_HOUR).await.unwrap_or_default();
        let says = |upstream, holds: &dyn Fn(&Value) -> bool| of(&last.0, upstream).is_ok_and(|one| holds(&one["lines"][0]));
        last.1 == code && says("shop", &holds) && says(BANK, &|line| line["stored"] == BANKS)
    };
    wait_until(&format!("reconcile to end with {code}"), A_MINUTE_AND_MORE, look).await.with_context(|| format!("{last:?}"))?;
    Ok(last.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_subscription_is_skipped_and_an_upstream_that_is_away_is_named() -> anyhow::Result<()> {
    let mut flow = Flow::new("reconcile_skipped", Setup { postgres: true, max_batch: 256 }).await?;
    let mut bank = Bank::of(&flow).await?;
    let addresses = format!("shop = {:?}\n{BANK} = {:?}", flow.system.grpc_url(Which::Upstream), bank.grpc_url());
    flow.configure(Which::Callback, "[callback]", "reconcile_interval_ms = 0\nreconcile_probe_wait_ms = 1000")?;
    let configuration = flow.ground.path("callback.toml");
    let text = std::fs::read_to_string(&configuration)?;
    std::fs::write(&configuration, format!("{text}\n[callback.upstreams]\n{addresses}\n"))?;
    flow.start(&Which::ALL).await?;
    bank.start().await?;
    let mut ids = [send_to(bank.grpc_url(), 0, BANKS).await?, flow.send(0, SIGNED).await?].concat();
    flow.all_signed(&ids).await?;
    expect(&flow, 0, &["pause", SUBSCRIPTION, "--reason", "a roll-out"]).await?;
    let downstream = flow.system.grpc_url(Which::Downstream);
    let still = async || {
        let found = standings_at(&downstream).await.unwrap_or_default();
        found.first().is_some_and(|one| one.paused.is_some() && one.in_flight + one.waiting == 0)
    };
    wait_until("the pause to stand", PATIENCE, still).await?;
    ids.extend(flow.send(SIGNED, PAUSED).await?);

    let told = comes_to(&flow, 1, |line| line["stored"] == SIGNED + PAUSED).await?;
    let (shop, other) = (of(&told, "shop")?, of(&told, BANK)?);
    let line = &shop["lines"][0];
    ensure!(shop["state"] == "skipped" && line["state"] == "skipped" && line["missing"] == 0, "{told}");
    ensure!(line["not_compared"].as_u64().is_some_and(|skipped| skipped >= u64::from(PAUSED)), "{told}");
    ensure!(shop["detail"].as_str().is_some_and(|why| why.contains(SUBSCRIPTION) && why.contains("probe")), "{told}");
    ensure!(other["state"] == "certified" && other["lines"][0]["verified"] == BANKS, "{told}");
    nothing_was_resent(&flow).await?;

    bank.kill9();
    let (told, code) = reconciled(&flow, &LAST_HOUR).await?;
    ensure!(
        code == 3 && of(&told, BANK)?["state"] == "unreachable" && of(&told, "shop")?["state"] == "skipped",
        "{code}: {told}"
    );
    let (last, code) = reconciled(&flow, &["reconcile", "--last"]).await?;
    let text = in_words(&flow, &["reconcile", "--last"]).await?;
    for upstream in ["shop", BANK] {
        ensure!(of(&last, upstream)? == of(&told, upstream)?, "{last} is not {told}");
        says_the_same(&text, of(&last, upstream)?)?;
    }
    ensure!(code == 3, "{code}");
    let (told, code) = reconciled(&flow, &[&LAST_HOUR[..], &["--from", "shop"]].concat()).await?;
    ensure!(code == 1 && of(&told, "shop")?["state"] == "skipped" && of(&told, BANK).is_err(), "{code}: {told}");

    expect(&flow, 0, &["resume", SUBSCRIPTION]).await?;
    flow.all_signed(&ids).await?;
    let (told, code) = reconciled(&flow, &LAST_HOUR).await?;
    ensure!(
        code == 3 && of(&told, "shop")?["state"] == "certified",
        "one away, the other certified all the same: {code}: {told}"
    );
    bank.start().await?;
    let told = comes_to(&flow, 0, |line| line["verified"] == SIGNED + PAUSED).await?;
    ensure!(of(&told, BANK)?["lines"][0]["verified"] == BANKS, "{told}");
    says_the_same(&in_words(&flow, &["reconcile", "--last"]).await?, of(&told, "shop")?)?;
    flow.each_effected_once(&ids).await?;
    nothing_was_resent(&flow).await?;
    flow.finish().await
}
