//! Upstream deletes what is settled and old, and nothing else: what the broker has not taken yet stays whatever its age, through a kill too.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, PATIENCE, Setup, WITNESS, order};
use countersign_launcher::{Extras, Which, binary, wait_until};
use countersign_wire::proto::get_message_request::By;
use countersign_wire::proto::send_result::Result as Sent;
use countersign_wire::proto::{GetMessageRequest, NewMessage, SendMessagesRequest};
use tonic::Code;

use crate::command::countersign;

/// Above the longest time of a resend by [`FIGURES`].
const RETENTION_MS: u64 = 10_000;

/// What upstream is told of the others, so that a short retention is accepted: in this test nobody's resend is waited for.
const FIGURES: &str = "[policy]
max_resends = 0
resend_lease_ms = 1
probe_grace_ms = 1
probe_replace_ms = 1
probe_replace_max_ms = 1
unprobed_timeout_ms = 1
overdue_ms = 1
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqlite() -> anyhow::Result<()> {
    only_what_is_settled_and_old_is_deleted("retention_sqlite", false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres() -> anyhow::Result<()> {
    only_what_is_settled_and_old_is_deleted("retention_postgres", true).await
}

async fn prepare(test: &str, postgres: bool, retention_ms: u64) -> anyhow::Result<Flow> {
    let extras = Extras { topology: WITNESS.into(), ..Extras::default() };
    let flow = Flow::with_extras(test, Setup { postgres, max_batch: 256 }, extras).await?;
    let file = flow.ground.dir().join("upstream.toml");
    let configuration = std::fs::read_to_string(&file)?;
    let (before, _) = configuration.split_once("[policy]").context("upstream.toml has no [policy]")?;
    let before = before.replace("handler_timeout_ms = 30000", "handler_timeout_ms = 1");
    // Its restart must not bind again what the test has unbound.
    let before = before.replace("apply = true", "apply = false");
    let before = before.replace("max_batch = ", &format!("retention_ms = {retention_ms}\nmax_batch = "));
    std::fs::write(&file, format!("{before}{FIGURES}"))?;
    Ok(flow)
}

async fn only_what_is_settled_and_old_is_deleted(test: &str, postgres: bool) -> anyhow::Result<()> {
    let mut flow = prepare(test, postgres, RETENTION_MS).await?;
    flow.start(&Which::ALL).await?;

    // Settled and old: gone, from the database and for its key.
    let first = flow.send(0, 5).await?;
    flow.all_signed(&first).await?;
    ensure!(is_stored(&flow, &first[0]).await?, "it was deleted while it was young");
    all_deleted(&flow, &first).await?;
    let deleted = flow.system.metric(Which::Upstream, "countersign_retention_deleted_total").await?;
    ensure!(deleted >= 5.0, "{deleted} are counted");
    let again = flow.send(0, 1).await?;
    ensure!(!first.contains(&again[0]), "a repeat of a deleted key is answered as the deleted message");
    flow.all_signed(&again).await?;

    // Unsettled: its process is killed, its successor adopts it, and it stays, while a younger message that the broker took goes.
    flow.unbind_work_queue().await?;
    let unsettled = flow.send(5, 3).await?;
    flow.system.kill9(Which::Upstream);
    flow.start(&[Which::Upstream]).await?;
    let witness = send_witness(&flow).await?;
    all_deleted(&flow, &[witness]).await?;
    all_stored(&flow, &unsettled).await?;

    // The queue is back: processed, and gone as well.
    flow.bind_work_queue().await?;
    flow.all_signed(&unsettled).await?;
    all_deleted(&flow, &unsettled).await?;
    flow.each_effected_once(&[first.clone(), again, unsettled].concat()).await?;

    let told = countersign(&flow, &["why", &first[0]]).await?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    ensure!(told.contains("has deleted it after its retention") && told.contains("has signed"), "{told}");
    let shown = countersign(&flow, &["get", &first[0]]).await?;
    let shown = String::from_utf8_lossy(&shown.stderr).into_owned();
    ensure!(shown.contains("or no longer"), "{shown}");
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retention_shorter_than_the_longest_resend_is_refused() -> anyhow::Result<()> {
    let flow = prepare("retention_refused", false, 5_000).await?;
    for arguments in [&["--check-config"][..], &[]] {
        let file = flow.ground.dir().join("upstream.toml");
        let mut upstream = tokio::process::Command::new(binary("upstream")?);
        upstream.arg("--config").arg(&file).args(arguments).current_dir(flow.ground.dir()).kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, upstream.output()).await??;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success(), "{arguments:?} was accepted: {said}");
        ensure!(said.contains("upstream.retention_ms is 5000") && said.contains("raise it"), "{arguments:?}: {said}");
    }
    Ok(())
}

async fn send_witness(flow: &Flow) -> anyhow::Result<String> {
    let message = NewMessage { routing_key: "witness.sent".into(), ..order(100) };
    let answer = flow.upstream().await?.send_messages(SendMessagesRequest { messages: vec![message] }).await?.into_inner();
    match answer.results.into_iter().next().and_then(|result| result.result) {
        Some(Sent::Accepted(accepted)) => Ok(accepted.id),
        other => anyhow::bail!("not accepted: {other:?}"),
    }
}

async fn is_stored(flow: &Flow, id: &str) -> anyhow::Result<bool> {
    let request = GetMessageRequest { by: Some(By::Id(id.to_owned())), ..Default::default() };
    match flow.upstream().await?.get_message(request).await {
        Ok(_) => Ok(true),
        Err(status) if status.code() == Code::NotFound => Ok(false),
        Err(status) => Err(status.into()),
    }
}

async fn stand(flow: &Flow, ids: &[String]) -> anyhow::Result<BTreeMap<String, bool>> {
    let mut stand = BTreeMap::new();
    for id in ids {
        stand.insert(id.clone(), is_stored(flow, id).await?);
    }
    Ok(stand)
}

async fn all_deleted(flow: &Flow, ids: &[String]) -> anyhow::Result<()> {
    let what = format!("{} messages to be deleted", ids.len());
    let deleted = async || stand(flow, ids).await.is_ok_and(|stand| stand.values().all(|stored| !stored));
    wait_until(&what, PATIENCE, deleted).await
}

async fn all_stored(flow: &Flow, ids: &[String]) -> anyhow::Result<()> {
    let stand = stand(flow, ids).await?;
    ensure!(stand.values().all(|stored| *stored), "unsettled messages were deleted: {stand:?}");
    Ok(())
}
