//! `countersign send --file`: what becomes of each record of a file, good or bad.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, Setup};
use countersign_launcher::Which;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use crate::command::{SETUP, command, count, error, expect};

/// `send --file FILE` and what goes with it.
pub fn send(file: &str) -> [&str; 9] {
    ["send", "--exchange", "orders", "--type", "order.created", "--id-field", "order_id", "--file", file]
}

/// Accepted, duplicate, rejected.
pub fn counts(answer: &Value) -> [u64; 3] {
    ["accepted", "duplicate", "rejected"].map(|what| count(answer, what))
}

/// The lines of a file that `--ids` or `--rejected` wrote. A last one without an end was cut off by a kill.
pub fn journal(path: &str) -> anyhow::Result<Vec<Value>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    let whole = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    whole.map(|line| serde_json::from_str(line).with_context(|| format!("{path} has {line}"))).collect()
}

/// Line and id of each accepted record.
pub fn ids(path: &str) -> anyhow::Result<BTreeMap<u64, String>> {
    let lines = journal(path)?.into_iter().map(|entry| {
        let id = entry["id"].as_str().context("no id")?.to_owned();
        Ok((count(&entry, "line"), id))
    });
    lines.collect()
}

fn lines(answer: &Value) -> Vec<u64> {
    answer["rejected_lines"].as_array().into_iter().flatten().map(|entry| count(entry, "line")).collect()
}

fn write(flow: &Flow, name: &str, content: impl AsRef<[u8]>) -> anyhow::Result<String> {
    let path = flow.ground.path(name);
    std::fs::write(&path, content)?;
    Ok(path.display().to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_row_of_a_csv_file_is_sent_once_or_rejected_with_its_line() -> anyhow::Result<()> {
    let mut flow = Flow::new("file_csv", SETUP).await?;
    flow.start(&Which::ALL).await?;
    // Lines:     1                    2, 3, 4                     5                6          7          8
    let mut csv =
        b"\xEF\xBB\xBForder_id,note\r\nC-1,\"two\r\n\"\"lines\"\"\r\n\"\r\nC-2,\xC3\xA9\r\n,empty\r\nC-2,\xC3\xA9\r\n\r\n"
            .to_vec();
    // Lines:            9          10   11            12
    csv.extend_from_slice(b"C-2,other\r\nC-3\r\nC-4,\xFF\r\nC-5,last");
    let file = write(&flow, "orders.csv", csv)?;
    let (ids_file, rejected_file) = (format!("{file}.ids"), format!("{file}.rejected"));
    let arguments = [&send(&file)[..], &["--ids", &ids_file, "--rejected", &rejected_file]].concat();
    let first = expect(&flow, 1, &arguments).await?;
    ensure!(counts(&first) == [3, 1, 4] && lines(&first) == [6, 9, 10, 11], "{first}");
    let sent = ids(&ids_file)?;
    ensure!(sent.keys().copied().collect::<Vec<_>>() == [2, 5, 7, 12] && sent[&5] == sent[&7], "{sent:?}");
    let rejected = journal(&rejected_file)?;
    ensure!(json!(rejected) == first["rejected_lines"], "{rejected:?} is not {first}");
    for (entry, words) in rejected.iter().zip(["order_id", sent[&5].as_str(), "1 instead of 2 fields", "UTF-8"]) {
        ensure!(entry["why"].as_str().is_some_and(|why| why.contains(words)), "{entry} does not say {words}");
    }
    let found = expect(&flow, 0, &["get", "--key", "C-1", "--body"]).await?;
    ensure!(found["body"] == r#"{"note":"two\r\n\"lines\"\r\n","order_id":"C-1"}"#, "{found}");
    ensure!(found["content_type"] == "application/json", "{found}");
    let again = expect(&flow, 1, &arguments).await?;
    ensure!(counts(&again) == [0, 4, 4] && ids(&ids_file)? == sent, "{again}");
    flow.effects_reach(3).await?;
    ensure!(flow.system.effects().await?.total == 3, "a row was sent twice");
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_rows_with_one_key_the_first_one_is_sent() -> anyhow::Result<()> {
    const KEYS: u64 = 2_000;
    const APART: u64 = 150;
    // PostgreSQL, where two INSERTs really run at a time.
    let mut flow = Flow::new("file_conflicts", Setup { postgres: true, max_batch: 256 }).await?;
    flow.start(&[Which::Upstream]).await?;
    // The second row of each key comes about 300 rows after the first: in the same batch, or in one that could be under way with it.
    let mut rows = vec!["order_id,part".to_owned()];
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for number in 0..KEYS + APART {
        for (key, part, seen) in
            [(Some(number).filter(|key| *key < KEYS), "first", &mut first), (number.checked_sub(APART), "second", &mut second)]
        {
            if let Some(key) = key {
                rows.push(format!("D-{key},{part}"));
                seen.push(rows.len() as u64);
            }
        }
    }
    let file = write(&flow, "conflicts.csv", rows.join("\n"))?;
    let (ids_file, rejected_file) = (format!("{file}.ids"), format!("{file}.rejected"));
    let sent = expect(&flow, 1, &[&send(&file)[..], &["--ids", &ids_file, "--rejected", &rejected_file]].concat()).await?;
    ensure!(counts(&sent) == [KEYS, 0, KEYS], "{:?}", counts(&sent));
    ensure!(lines(&sent).len() == 100, "{} lines are listed", lines(&sent).len());
    let accepted: Vec<u64> = journal(&ids_file)?.iter().map(|entry| count(entry, "line")).collect();
    ensure!(accepted == first, "another row than the first one of its key was sent, or the order is lost");
    let rejected: Vec<u64> = journal(&rejected_file)?.iter().map(|entry| count(entry, "line")).collect();
    ensure!(rejected == second, "the rejected ones are not the second ones");
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_too_large_is_rejected_alone() -> anyhow::Result<()> {
    let mut flow = Flow::new("file_large", SETUP).await?;
    flow.start(&[Which::Upstream]).await?;
    let line = |key: &str, bytes: usize| format!("{{\"order_id\":\"{key}\",\"pad\":\"{}\"}}\n", "x".repeat(bytes));
    let mebibyte = 1024 * 1024;
    // Beyond upstream's limit for a body, beyond that for a call; then more than one call takes altogether, headers included.
    let mut text = line("E-1", mebibyte) + &line("E-2", 5 * mebibyte) + &line("E-3", 1);
    for number in 0..100 {
        text += &line(&format!("F-{number}"), 30_000);
    }
    let file = write(&flow, "large.jsonl", text)?;
    let header = format!("pad={}", "h".repeat(30_000));
    let sent = expect(&flow, 1, &[&send(&file)[..], &["--header", &header]].concat()).await?;
    ensure!(counts(&sent) == [101, 0, 2] && lines(&sent) == [1, 2], "{sent}");
    ensure!(sent["rejected_lines"][0]["why"].as_str().is_some_and(|why| why.contains("max_body_bytes")), "{sent}");
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standard_input_is_sent_when_its_format_is_said() -> anyhow::Result<()> {
    let mut flow = Flow::new("file_stdin", SETUP).await?;
    flow.start(&[Which::Upstream]).await?;
    for (format, text) in [("csv", "order_id\nG-1\nG-2\n"), ("jsonl", "{\"order_id\":\"G-3\"}\n{\"order_id\":\"G-4\"}")] {
        let mut child = command(&flow, &[&send("-")[..], &["--format", format]].concat())?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("no standard input")?.write_all(text.as_bytes()).await?;
        let output = timeout(Duration::from_mins(1), child.wait_with_output()).await??;
        let sent: Value = serde_json::from_slice(&output.stdout)?;
        ensure!(output.status.success() && counts(&sent) == [2, 0, 0], "{format}: {sent}");
    }
    let said = expect(&flow, 2, &send("-")).await?;
    ensure!(said.as_str().is_some_and(|said| said.contains("--format")), "{said}");
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_cannot_be_sent_says_why_before_anything_is_asked_of_upstream() -> anyhow::Result<()> {
    // Upstream does not run: whatever needs it ends with 3.
    let flow = Flow::new("file_bad", SETUP).await?;
    let missing = flow.ground.path("missing.csv").display().to_string();
    let unnamed = write(&flow, "orders.txt", "x")?;
    let no_id = write(&flow, "no_id.csv", "a,b\n1,2\n")?;
    let twice = write(&flow, "twice.csv", "\norder_id,a,a\n1,2,3\n")?;
    let empty = write(&flow, "empty.csv", "")?;
    let sound = write(&flow, "sound.csv", "order_id\nH-1\n")?;
    let directory = flow.ground.dir().display().to_string();
    let ids = ["--ids", &sound];
    let both = ["--ids", &unnamed, "--rejected", &unnamed];
    let table: [(&str, &[&str], &str); 8] = [
        (&missing, &[], "missing.csv cannot be read"),
        (&unnamed, &[], "--format jsonl or --format csv"),
        (&no_id, &[], "has no column \"order_id\", it has \"a\", \"b\""),
        (&twice, &[], "line 2, the header: columns 2 and 3 are both called \"a\""),
        (&empty, &[], "it is empty"),
        (&directory, &["--format", "jsonl"], "cannot be read"),
        (&sound, &ids, "is the file that is sent"),
        (&sound, &both, "name one file"),
    ];
    for (file, more, words) in table {
        let said = expect(&flow, 2, &[&send(file)[..], more].concat()).await?;
        ensure!(said.as_str().is_some_and(|said| said.contains(words)), "{said} does not say {words}");
    }
    ensure!(std::fs::read_to_string(&sound)? == "order_id\nH-1\n", "the file that was to be sent was written to");
    expect(&flow, 3, &send(&sound)).await?;
    let output = command(&flow, &["send", "--file", &sound])?.output().await?;
    error(2, &String::from_utf8_lossy(&output.stderr)).context("no type, no id field")?;
    Ok(())
}
