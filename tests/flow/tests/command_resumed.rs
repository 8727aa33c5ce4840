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

use crate::command::{SETUP, command, count, error, expect};
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

/// Asserts that every id of the first run is found in the second, which has `orders` different ones and `repeats` of them once more.
fn the_same_ids(first: &str, second: &str, orders: u64, repeats: u64) -> anyhow::Result<Vec<String>> {
    let (first, second) = (ids(first)?, ids(second)?);
    for (line, id) in &first {
        ensure!(second.get(line) == Some(id), "line {line} was {id} and is {:?}", second.get(line));
    }
    let all: std::collections::BTreeSet<_> = second.values().cloned().collect();
    let (lines, different) = (second.len() as u64, all.len() as u64);
    ensure!(lines == orders + repeats && different == orders, "{lines} lines have {different} ids");
    Ok(all.into_iter().collect())
}

/// A large file as life makes them, and what has to become of it.
struct Mixed {
    file: String,
    /// Rows that are orders of their own.
    orders: u64,
    /// Rows that repeat an order.
    repeats: u64,
    /// On which lines the rows begin that have no id, or contradict the order before them.
    rejected: Vec<u64>,
}

/// Every tenth row has a line break inside; of each thousand one repeats the row before it, one has no id, one contradicts the row before it.
fn write_mixed(flow: &Flow, rows: u64) -> anyhow::Result<Mixed> {
    let file = flow.ground.path("mixed.csv").display().to_string();
    let (mut text, mut line) = (String::from("order_id,article,note\n"), 2);
    let mut mixed = Mixed { file, orders: 0, repeats: 0, rejected: Vec::new() };
    for row in 1..=rows {
        let note = if row % 10 == 0 { "\"a note\nof two lines\"" } else { "\"a, b\"" };
        let before = row - 1;
        let record = match row % 1_000 {
            502 => format!("J-{before},{},\"a, b\"\n", before % 97),
            602 => format!(",{},{note}\n", row % 97),
            702 => format!("J-{before},another,{note}\n"),
            _ => format!("J-{row},{},{note}\n", row % 97),
        };
        match row % 1_000 {
            502 => mixed.repeats += 1,
            602 | 702 => mixed.rejected.push(line),
            _ => mixed.orders += 1,
        }
        line += u64::try_from(record.matches('\n').count())?;
        text.push_str(&record);
    }
    std::fs::write(&mixed.file, text)?;
    Ok(mixed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_rows_are_sent_once_by_a_sender_that_is_killed() -> anyhow::Result<()> {
    // The sending side alone: a hundred thousand effects would take the test's time several times over.
    let mut flow = Flow::new("resumed_many", SETUP).await?;
    flow.start(&[Which::Upstream]).await?;
    let Mixed { file, orders, repeats, rejected: wanted } = write_mixed(&flow, MANY)?;
    let (first, second, refused) = (format!("{file}.1"), format!("{file}.2"), format!("{file}.rejected"));
    let sender = start(&flow, &file, &first)?;
    in_the_middle(&sender, &first, 30_000).await?;
    sender.kill9();
    let known = ids(&first)?.len() as u64;
    ensure!(known < orders, "it was killed when it had ended");
    let resumed = Program::new(binary("countersign")?)
        .args(["-o", "json", "--upstream", &flow.system.grpc_url(Which::Upstream)])
        .args(send(&file))
        .args(["--ids", &second, "--rejected", &refused])
        .log_to(format!("{file}.log"))
        .spawn()?;
    let status = resumed.wait(MANY_TAKE).await?;
    let told: Value = serde_json::from_str(&resumed.log_text()).with_context(|| resumed.log_text())?;
    let [accepted, duplicate, rejected] = counts(&told);
    ensure!(status.code() == Some(1) && rejected == wanted.len() as u64, "{status}: {told}");
    ensure!(accepted + duplicate == orders + repeats && duplicate >= known, "{known} were answered before, {told}");
    ensure!(accepted > 0, "nothing was left to be sent: {told}");
    let lines: Vec<u64> = journal(&refused)?.iter().map(|entry| count(entry, "line")).collect();
    ensure!(lines == wanted, "rejected were lines {lines:?}, and not {wanted:?}");
    the_same_ids(&first, &second, orders, repeats)?;
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
    let all = the_same_ids(&first, &second, FEW, 0)?;
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
    the_same_ids(&first, &second, ORDERS, 0)?;
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
    let all = the_same_ids(&ids_file, &ids_file, FEW, 0)?;
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
