//! Redrive against everything that may happen meanwhile: failures, resends, other operators, kills.

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, PATIENCE, Setup};
use countersign_launcher::{Program, Running, SUBSCRIPTION, Which, binary, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{audit_has, dead, delivery_is};
use crate::command::{SETUP, expect};

/// So many orders in the dead-letter queue, and a handler that takes them from now on.
pub async fn rejected(flow: &mut Flow, count: u32) -> anyhow::Result<Vec<String>> {
    flow.start(&Which::ALL).await?;
    flow.system.behave(&json!({"status": 422})).await?;
    let ids = flow.send(0, count).await?;
    flow.dead_letters_reach(SUBSCRIPTION, usize::try_from(count)?).await?;
    flow.all_in_state(&ids, "parked").await?;
    flow.system.behave(&json!({})).await?;
    Ok(ids)
}

/// A redrive in the background; both of its outputs go to `redrive.log`.
fn start_redrive(flow: &Flow, options: &[&str]) -> anyhow::Result<Running> {
    Program::new(binary("countersign")?)
        .args(["-o", "json", "--callback", &flow.system.grpc_url(Which::Callback)])
        .args(["dead", "redrive", "--subscription", SUBSCRIPTION, "--all"])
        .args(options)
        .log_to(flow.ground.path("redrive.log"))
        .spawn()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn epochs_of_redrives_and_resends_go_together_on_sqlite() -> anyhow::Result<()> {
    epochs_of_redrives_and_resends_go_together("dead_epochs_sqlite", false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn epochs_of_redrives_and_resends_go_together_on_postgres() -> anyhow::Result<()> {
    epochs_of_redrives_and_resends_go_together("dead_epochs_postgres", true).await
}

/// Fails again: parked again with the new reason. Resent by callback afterwards: a later epoch, done. The letter that is left: no second effect.
async fn epochs_of_redrives_and_resends_go_together(test: &str, postgres: bool) -> anyhow::Result<()> {
    let mut flow = Flow::new(test, Setup { postgres, ..SETUP }).await?;
    let ids = rejected(&mut flow, 1).await?;
    flow.system.behave(&json!({"status": 415})).await?;
    ensure!(dead(&flow, 0, "redrive", &["--all", "--because", "try"]).await?["redriven"] == 1, "not redriven");
    delivery_is(&flow, &ids[0], "parked", "rejected: ", 1).await?;
    let (_, reason, _) = super::delivery(&flow, &ids[0]).await?;
    ensure!(reason.contains("415"), "the reason is not the new one: {reason}");
    flow.dead_letters_reach(SUBSCRIPTION, 1).await?;
    // Through the retry tiers: callback sees it under way, then parked for that.
    flow.system.behave(&json!({"status": 503})).await?;
    ensure!(dead(&flow, 0, "redrive", &["--all"]).await?["results"][0]["epoch"] == 2, "not the second epoch");
    delivery_is(&flow, &ids[0], "parked", "retries_exhausted", 2).await?;
    let known = expect(&flow, 0, &["get", &ids[0]]).await?;
    let lines = known["deliveries"][0]["history"].as_array().context("no history")?;
    let reopened = lines.iter().any(|line| line["what"] == "resent" && line["epoch"] == 2);
    ensure!(reopened, "callback did not see it under way again: {known}");
    flow.dead_letters_reach(SUBSCRIPTION, 1).await?;
    let letter = dead(&flow, 0, "show", &[&ids[0]]).await?["letters"][2].clone();
    let what: Vec<_> = letter["history"].as_array().context("no history")?.iter().map(|line| line["what"].clone()).collect();
    ensure!(what == ["died", "redriven", "died", "redriven", "retried", "retried"], "{letter}");
    // Callback's own redrive comes after both, and its copy is the third try of this message that ends well.
    flow.system.behave(&json!({})).await?;
    expect(&flow, 0, &["resend", &ids[0]]).await?;
    delivery_is(&flow, &ids[0], "done", "", 3).await?;
    flow.each_effected_once(&ids).await?;
    // The letter of the last death was not acted on: it is settled, and nothing is sent.
    flow.dead_letters_reach(SUBSCRIPTION, 0).await?;
    let settled = dead(&flow, 0, "redrive", &["--state", "settled", "--all"]).await?;
    ensure!(settled["results"][0]["result"] == "already done" && settled["redriven"] == 0, "{settled}");
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callback_killed_before_it_sends_on_sqlite() -> anyhow::Result<()> {
    callback_killed_in_the_middle("dead_ordered_sqlite", false, "callback.after_redrive_stored").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callback_killed_before_it_sends_on_postgres() -> anyhow::Result<()> {
    callback_killed_in_the_middle("dead_ordered_postgres", true, "callback.after_redrive_stored").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callback_killed_after_it_has_sent_on_sqlite() -> anyhow::Result<()> {
    callback_killed_in_the_middle("dead_sent_sqlite", false, "callback.after_redrive_confirm").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callback_killed_after_it_has_sent_on_postgres() -> anyhow::Result<()> {
    callback_killed_in_the_middle("dead_sent_postgres", true, "callback.after_redrive_confirm").await
}

/// Of 200 some are redriven, some are ordered or sent with nothing written down of it, the rest untouched: the same command goes on, and each has
/// one effect. The order that was cut off stays begun in the audit.
async fn callback_killed_in_the_middle(test: &str, postgres: bool, point: &str) -> anyhow::Result<()> {
    let mut flow = Flow::new(test, Setup { postgres, ..SETUP }).await?;
    let ids = rejected(&mut flow, 200).await?;
    flow.system.stop(Which::Callback).await?;
    flow.system.start(Which::Callback, &format!("{point}=2*off->1*return")).await?;
    // 40 at a time: it dies with the third forty.
    let said = dead(&flow, 3, "redrive", &["--all", "--rate", "400"]).await?;
    ensure!(said.as_str().is_some_and(|said| said.contains("the same command goes on")), "{said}");
    flow.system.dies_at(Which::Callback, point, PATIENCE).await?;
    flow.start(&[Which::Callback]).await?;
    let rest = dead(&flow, 0, "redrive", &["--all", "--rate", "400"]).await?;
    let redriven = rest["redriven"].as_u64().context("no count")?;
    ensure!((80..=120).contains(&redriven), "{redriven} were left");
    audit_has(&flow, &[("redrive", "begun"), ("redrive", "done")]).await?;
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    flow.dead_letters_reach(SUBSCRIPTION, 0).await?;
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redrive_that_is_stopped_goes_on() -> anyhow::Result<()> {
    let mut flow = Flow::new("dead_stopped", SETUP).await?;
    let ids = rejected(&mut flow, 20).await?;
    let slow = start_redrive(&flow, &["--rate", "1"])?;
    flow.effects_reach(2).await?;
    kill_process(Pid::from_raw(i32::try_from(slow.pid())?).context("no process")?, Signal::INT)?;
    let status = slow.wait(PATIENCE).await?;
    ensure!(status.code() == Some(130), "it ended with {status}: {}", slow.log_text());
    ensure!(slow.log_text().contains("goes on from there"), "{}", slow.log_text());
    let stopped = async || flow.system.log_of(Which::Callback).is_ok_and(|log| log.contains("whoever ordered it has gone"));
    wait_until("callback to have noticed", PATIENCE, stopped).await?;
    let left = flow.dead_letters(SUBSCRIPTION).await?.len();
    ensure!((1..=18).contains(&left), "{left} are left");
    let rest: Value = dead(&flow, 0, "redrive", &["--all"]).await?;
    ensure!(rest["redriven"] == left, "{rest}");
    audit_has(&flow, &[("redrive", "failed"), ("redrive", "done")]).await?;
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    flow.finish().await
}
