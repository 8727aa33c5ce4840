//! `countersign send --file` that is killed, stopped or cut off in the middle, and run again.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, PATIENCE};
use countersign_launcher::{Program, Running, Which, binary, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin};
use tokio::time::timeout;

use crate::command::{SETUP, command, error, expect};
use crate::command_file::{counts, ids, journal, send};

/// Rows of the large file.
const MANY: u64 = 100_000;
/// How long they may take on a busy machine; 20 s on a quiet one.
const MANY_TAKE: Duration = Duration::from_mins(3);
/// Rows where the effects are counted as well: the handler's side takes several times as long as the sending.
const FEW: u64 = 1_200;

/// A file of so many orders, as CSV.
fn write_orders(flow: &Flow, orders: u64) -> anyhow::Result<String> {
    let path = flow.ground.path("orders.csv");
    let rows = (1..=orders).map(|order| format!("J-{order},{},\"a, b\"\n", order % 97));
    std::fs::write(&path, std::iter::once("order_id,article,note\n".to_owned()).chain(rows).collect::<String>())?;
    Ok(path.display().to_string())
}

/// Starts to send a file in the background; both of its outputs go to `FILE.log`.
fn start(flow: &Flow, file: &str, ids_file: &str) -> anyhow::Result<Running> {
    Program::new(binary("countersign")?)
        .args(["-o", "json", "--upstream", &flow.system.grpc_url(Which::Upstream)])
        .args(send(file))
        .args(["--ids", ids_file])
        .log_to(format!("{file}.log"))
        .spawn()
}

/// Waits until the sender has written down some ids and still runs.
async fn in_the_middle(sender: &Running, ids_file: &str, at_least: usize) -> anyhow::Result<()> {
    let written = async || !sender.is_alive() || journal(ids_file).is_ok_and(|lines| lines.len() >= at_least);
    wait_until("the first ids", MANY_TAKE, written).await?;
    ensure!(sender.is_alive(), "the sender has ended{}", sender.log_text());
    Ok(())
}

/// Asserts that every id of the first run is found in the second, which has `orders` of them, all different.
fn the_same_ids(first: &str, second: &str, orders: u64) -> anyhow::Result<Vec<String>> {
    let (first, second) = (ids(first)?, ids(second)?);
    for (line, id) in &first {
        ensure!(second.get(line) == Some(id), "line {line} was {id} and is {:?}", second.get(line));
    }
    let all: std::collections::BTreeSet<_> = second.values().cloned().collect();
    ensure!(second.len() as u64 == orders && all.len() as u64 == orders, "{} lines have {} ids", second.len(), all.len());
    Ok(all.into_iter().collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_rows_are_sent_once_by_a_sender_that_is_killed() -> anyhow::Result<()> {
    // The sending side alone: a hundred thousand effects would take the test's time several times over.
    let mut flow = Flow::new("resumed_many", SETUP).await?;
    flow.start(&[Which::Upstream]).await?;
    let file = write_orders(&flow, MANY)?;
    let (first, second) = (format!("{file}.1"), format!("{file}.2"));
    let sender = start(&flow, &file, &first)?;
    in_the_middle(&sender, &first, 30_000).await?;
    sender.kill9();
    let known = ids(&first)?.len() as u64;
    ensure!(known < MANY, "it was killed when it had ended");
    let resumed = start(&flow, &file, &second)?;
    let status = resumed.wait(MANY_TAKE).await?;
    let told: Value = serde_json::from_str(&resumed.log_text()).with_context(|| resumed.log_text())?;
    let [accepted, duplicate, rejected] = counts(&told);
    ensure!(status.success() && accepted + duplicate == MANY && rejected == 0, "{status}: {told}");
    ensure!(duplicate >= known && accepted > 0, "{known} were answered before, {told}");
    the_same_ids(&first, &second, MANY)?;
    flow.finish().await
}

/// A sender that reads from a pipe, which has the first part of a file so far; and the rest of the file.
async fn start_on_a_pipe(flow: &Flow, file: &str, ids_file: &str) -> anyhow::Result<(Child, ChildStdin, String)> {
    // Not where a batch ends: the last rows are still being gathered.
    const FIRST_ROWS: usize = 1_100;
    let text = std::fs::read_to_string(file)?;
    let at = text.match_indices('\n').nth(FIRST_ROWS).context("too few rows")?.0 + 1;
    let arguments = [&send("-")[..], &["--format", "csv", "--ids", ids_file]].concat();
    let mut child = command(flow, &arguments)?.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut pipe = child.stdin.take().context("no standard input")?;
    pipe.write_all(&text.as_bytes()[..at]).await?;
    wait_until("the first ids", PATIENCE, async || journal(ids_file).is_ok_and(|lines| !lines.is_empty())).await?;
    Ok((child, pipe, text[at..].to_owned()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_is_killed_causes_no_second_effect() -> anyhow::Result<()> {
    let mut flow = Flow::new("resumed_effects", SETUP).await?;
    flow.start(&Which::ALL).await?;
    let file = write_orders(&flow, FEW)?;
    let (first, second) = (format!("{file}.1"), format!("{file}.2"));
    let (mut sender, _pipe, _rest) = start_on_a_pipe(&flow, &file, &first).await?;
    sender.kill().await?;
    let sent = expect(&flow, 0, &[&send(&file)[..], &["--ids", &second]].concat()).await?;
    let [accepted, duplicate, rejected] = counts(&sent);
    ensure!(accepted + duplicate == FEW && rejected == 0 && accepted > 0 && duplicate > 0, "{sent}");
    let all = the_same_ids(&first, &second, FEW)?;
    flow.effects_reach(FEW).await?;
    flow.all_signed(&all).await?;
    flow.each_effected_once(&all).await?;
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_is_interrupted_says_how_far_it_came() -> anyhow::Result<()> {
    const ORDERS: u64 = 20_000;
    let mut flow = Flow::new("resumed_interrupt", SETUP).await?;
    flow.start(&[Which::Upstream]).await?;
    let file = write_orders(&flow, ORDERS)?;
    let (first, second) = (format!("{file}.1"), format!("{file}.2"));
    let sender = start(&flow, &file, &first)?;
    in_the_middle(&sender, &first, 1).await?;
    sender.interrupt()?;
    let status = sender.wait(PATIENCE).await?;
    ensure!(status.code() == Some(130), "ended with {status}{}", sender.log_text());
    let text = sender.log_text();
    let (told, said) = text.trim_end().rsplit_once('\n').context("one line only")?;
    let answered = ids(&first)?.len() as u64;
    ensure!(counts(&serde_json::from_str(told)?) == [answered, 0, 0], "{answered} ids, {told}");
    let said = error(130, said)?;
    ensure!(said.as_str().is_some_and(|said| said.contains(&format!("{answered} lines were answered"))), "{said}");
    let sent = expect(&flow, 0, &[&send(&file)[..], &["--ids", &second]].concat()).await?;
    // A call that was under way may have been carried out although its answer came too late.
    let [accepted, duplicate, rejected] = counts(&sent);
    ensure!(accepted + duplicate == ORDERS && duplicate >= answered && rejected == 0, "{answered} were answered, then {sent}");
    the_same_ids(&first, &second, ORDERS)?;
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_waits_for_its_input_is_interrupted_as_well() -> anyhow::Result<()> {
    let mut flow = Flow::new("resumed_pipe", SETUP).await?;
    flow.start(&[Which::Upstream]).await?;
    let file = write_orders(&flow, FEW)?;
    let ids_file = format!("{file}.1");
    let (sender, _pipe, _rest) = start_on_a_pipe(&flow, &file, &ids_file).await?;
    let pid = sender.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).context("it has ended")?;
    kill_process(pid, Signal::TERM)?;
    let output = timeout(PATIENCE, sender.wait_with_output()).await??;
    ensure!(output.status.code() == Some(143), "ended with {}", output.status);
    let said = error(143, &String::from_utf8(output.stderr)?)?;
    let answered = ids(&ids_file)?.len();
    ensure!(said.as_str().is_some_and(|said| said.contains(&format!("{answered} lines were answered"))), "{said}");
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_waits_for_an_upstream_that_is_killed() -> anyhow::Result<()> {
    let mut flow = Flow::new("resumed_upstream", SETUP).await?;
    flow.start(&Which::ALL).await?;
    let file = write_orders(&flow, FEW)?;
    let ids_file = format!("{file}.1");
    let (sender, mut pipe, rest) = start_on_a_pipe(&flow, &file, &ids_file).await?;
    flow.system.kill9(Which::Upstream);
    pipe.write_all(rest.as_bytes()).await?;
    drop(pipe);
    flow.start(&[Which::Upstream]).await?;
    let output = timeout(PATIENCE, sender.wait_with_output()).await??;
    let told: Value = serde_json::from_slice(&output.stdout)?;
    let [accepted, duplicate, rejected] = counts(&told);
    // What was committed by a call whose answer was lost is known when it is sent again.
    ensure!(output.status.success() && accepted + duplicate == FEW && rejected == 0, "{}: {told}", output.status);
    let all = the_same_ids(&ids_file, &ids_file, FEW)?;
    flow.effects_reach(FEW).await?;
    flow.all_signed(&all).await?;
    flow.each_effected_once(&all).await?;
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_whose_patience_ends_tells_what_was_answered() -> anyhow::Result<()> {
    let mut flow = Flow::new("resumed_patience", SETUP).await?;
    flow.start(&[Which::Upstream]).await?;
    let file = write_orders(&flow, 20_000)?;
    let ids_file = format!("{file}.1");
    let sender = Program::new(binary("countersign")?)
        .args(["-o", "json", "--upstream", &flow.system.grpc_url(Which::Upstream)])
        .args(send(&file))
        .args(["--patience-ms", "10000", "--ids", &ids_file])
        .log_to(format!("{file}.log"))
        .spawn()?;
    in_the_middle(&sender, &ids_file, 1).await?;
    flow.system.kill9(Which::Upstream);
    let status = sender.wait(PATIENCE).await?;
    ensure!(status.code() == Some(3), "ended with {status}{}", sender.log_text());
    let text = sender.log_text();
    let (told, said) = text.trim_end().rsplit_once('\n').context("one line only")?;
    let told: Value = serde_json::from_str(told)?;
    let answered = ids(&ids_file)?.len() as u64;
    ensure!(counts(&told)[0] + counts(&told)[1] == answered && told["rejected"] == json!(0), "{answered} ids, {told}");
    let said = error(3, said)?;
    ensure!(said.as_str().is_some_and(|said| said.contains("Run the same command again")), "{said}");
    flow.finish().await
}
