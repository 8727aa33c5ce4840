//! `countersign why` against real services: what it says is what is so.

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, PATIENCE, Setup};
use countersign_launcher::{Which, wait_until};
use serde_json::{Value, json};

use crate::command::countersign;

const SETUP: Setup = Setup { postgres: false, max_batch: 256 };

/// What it prints about a message, and its exit code.
async fn ask(flow: &Flow, arguments: &[&str]) -> anyhow::Result<(Option<i32>, Value)> {
    let arguments = [&["why"], arguments].concat();
    let output = countersign(flow, &arguments).await?;
    let said = String::from_utf8_lossy(&output.stdout);
    let story = if said.trim().is_empty() {
        json!(String::from_utf8_lossy(&output.stderr))
    } else {
        serde_json::from_str(&said).with_context(|| format!("{arguments:?} printed {said}"))?
    };
    Ok((output.status.code(), story))
}

fn part(story: &Value, part: &str) -> String {
    story[part].to_string()
}

/// Waits until one part of the story says all of this; gives back the story.
async fn says(flow: &Flow, id: &str, named: &str, words: &[&str]) -> anyhow::Result<Value> {
    let said = std::sync::Mutex::new(Value::Null);
    let what = format!("`{named}` to say {words:?}");
    let told = wait_until(&what, PATIENCE, async || {
        let Ok((Some(0), story)) = ask(flow, &[id]).await else { return false };
        let all = words.iter().all(|word| part(&story, named).contains(word));
        *said.lock().unwrap() = story;
        all
    });
    let told = told.await;
    let story = said.into_inner()?;
    told.with_context(|| format!("it says {story:#}"))?;
    ensure!(story["id"] == id && story["away"] == json!([]), "{story:#}");
    Ok(story)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_signed_is_done() -> anyhow::Result<()> {
    let mut flow = Flow::new("why_signed", SETUP).await?;
    flow.start(&Which::ALL).await?;
    let ids = flow.send(0, 1).await?;
    flow.all_signed(&ids).await?;
    let story = says(&flow, &ids[0], "happened", &["stored it", "the broker has confirmed it", "has signed it as done"]).await?;
    ensure!(part(&story, "next").contains("nothing more will happen") && story["do"] == json!([]), "{story:#}");
    let (code, by_key) = ask(&flow, &["--key", "order-0"]).await?;
    ensure!(code == Some(0) && by_key["id"] == ids[0].as_str(), "{by_key:#}");
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_downstream_is_what_callback_waits_for() -> anyhow::Result<()> {
    let mut flow = Flow::new("why_downstream", SETUP).await?;
    flow.start(&[Which::Callback, Which::Upstream]).await?;
    let ids = flow.send(0, 1).await?;
    says(&flow, &ids[0], "next", &["it has not signed yet"]).await?;
    let story = says(&flow, &ids[0], "next", &["the probe of inventory.orders is unanswered since", "slow or away"]).await?;
    ensure!(part(&story, "do").contains("check downstream for inventory.orders"), "{story:#}");
    ensure!(story["next"][0]["when"].as_str().is_some_and(|when| when.ends_with('Z')), "{story:#}");
    flow.start(&[Which::Downstream]).await?;
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_parked_can_be_resent_as_it_advises() -> anyhow::Result<()> {
    let mut flow = Flow::new("why_parked", SETUP).await?;
    flow.start(&Which::ALL).await?;
    flow.system.behave(&json!({"status": 422})).await?;
    let ids = flow.send(0, 1).await?;
    let story = says(&flow, &ids[0], "next", &["nothing by itself", "its handler refused it (rejected", "attempt 1"]).await?;
    let advice = story["do"][0].as_str().context("no advice")?.to_owned();
    let (_, command) = advice.split_once("then: countersign ").with_context(|| advice.clone())?;
    flow.system.behave(&json!({})).await?;
    let output = countersign(&flow, &command.split(' ').collect::<Vec<_>>()).await?;
    let answer: Value =
        serde_json::from_slice(&output.stdout).with_context(|| format!("{command:?} ended with {}", output.status))?;
    // On a busy machine upstream may not have answered in time: then callback goes on by itself.
    let result = answer["results"][0]["result"].as_str().unwrap_or_default();
    ensure!(["resent", "ordered"].contains(&result), "the advised {command:?} ended with {}: {answer}", output.status);
    flow.all_signed(&ids).await?;
    let told = [
        "left it for a human",
        "an operator had it sent again",
        "published it again",
        "signed it as done (attempt 1 in epoch 1)",
    ];
    let story = says(&flow, &ids[0], "happened", &told).await?;
    let text = part(&story, "happened");
    ensure!(told.map(|words| text.find(words)).is_sorted(), "not in order: {story:#}");
    flow.each_effected_once(&ids).await?;
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_or_waits_in_a_retry_tier_is_said_so() -> anyhow::Result<()> {
    let mut flow = Flow::new("why_retrying", SETUP).await?;
    let file = flow.system.topology_file();
    let topology = std::fs::read_to_string(&file)?.replace("retry_delays_ms = [250, 500]", "retry_delays_ms = [8000]");
    ensure!(topology.contains("[8000]"), "the retry tiers were not found in {topology}");
    std::fs::write(&file, topology)?;
    flow.start(&Which::ALL).await?;
    flow.system.behave(&json!({"status": 503, "for": 1, "delay_ms": 6_000})).await?;
    let ids = flow.send(0, 1).await?;
    says(&flow, &ids[0], "next", &["a live consumer holds it", "(in "]).await?;
    let story = says(&flow, &ids[0], "next", &["it waits in the retry tier of 8 s and comes again about"]).await?;
    ensure!(part(&story, "happened").contains("put it back for another try: HTTP 503"), "{story:#}");
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_unknown_or_away_is_named() -> anyhow::Result<()> {
    let mut flow = Flow::new("why_away", SETUP).await?;
    flow.start(&Which::ALL).await?;
    let (code, story) = ask(&flow, &["019abcde-0000-7000-8000-000000000001"]).await?;
    ensure!(code == Some(0) && part(&story, "next").contains("neither upstream nor callback knows this id"), "{story:#}");
    let (code, said) = ask(&flow, &["no-uuid"]).await?;
    ensure!(code == Some(2) && said.as_str().is_some_and(|said| said.contains("UUID of version 7")), "{said}");
    let ids = flow.send(0, 1).await?;
    flow.all_signed(&ids).await?;
    flow.system.stop(Which::Callback).await?;
    let (code, story) = ask(&flow, &[&ids[0]]).await?;
    ensure!(code == Some(3) && part(&story, "away").contains("callback"), "{code:?} {story:#}");
    ensure!(part(&story, "happened").contains("stored it") && part(&story, "next").contains("not known here"), "{story:#}");
    flow.start(&[Which::Callback]).await?;
    flow.system.stop(Which::Upstream).await?;
    let (code, story) = ask(&flow, &[&ids[0]]).await?;
    ensure!(code == Some(3) && part(&story, "away").contains("upstream"), "{code:?} {story:#}");
    ensure!(part(&story, "happened").contains("has signed it as done"), "{story:#}");
    let (code, said) = ask(&flow, &["--key", "order-0"]).await?;
    ensure!(code == Some(3) && said.as_str().is_some_and(|said| said.contains("--upstream")), "{said}");
    flow.finish().await
}
