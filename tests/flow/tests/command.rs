//! The `countersign` command as a user meets it: every verb, a bad input each, and the exit codes.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, Setup};
use countersign_launcher::{SUBSCRIPTION, Which, binary};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;

pub const SETUP: Setup = Setup { postgres: false, max_batch: 256 };

/// The command with the addresses of this test's servers, ready to be run; answers and errors are JSON.
pub fn command(flow: &Flow, arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(binary("countersign")?);
    command.args(["-o", "json", "--timeout-ms", "5000"]);
    command.args(["--upstream", &flow.system.grpc_url(Which::Upstream), "--callback", &flow.system.grpc_url(Which::Callback)]);
    command.env("COUNTERSIGN_DOWNSTREAM_URL", flow.system.grpc_url(Which::Downstream));
    command.args(arguments).env("COUNTERSIGN_AMQP_URL", flow.ground.amqp_url()).kill_on_drop(true);
    Ok(command)
}

/// Runs the command against the services of `flow`.
pub async fn countersign(flow: &Flow, arguments: &[&str]) -> anyhow::Result<Output> {
    Ok(timeout(Duration::from_mins(1), command(flow, arguments)?.output()).await??)
}

/// Runs it, expects this exit code, and reads what it printed: the answer, or from code 2 on the words of the error.
pub async fn expect(flow: &Flow, code: i32, arguments: &[&str]) -> anyhow::Result<Value> {
    let output = countersign(flow, arguments).await?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.code() == Some(code), "{arguments:?} ended with {}, expected {code}: {out}{err}", output.status);
    if code > 1 {
        return error(code, &err).with_context(|| format!("{arguments:?} said {err}"));
    }
    serde_json::from_str(&out).with_context(|| format!("{arguments:?} printed {out}"))
}

/// Runs it, expects code 0 or 1, and reads the answer.
pub async fn outcome_of(flow: &Flow, arguments: &[&str]) -> anyhow::Result<Value> {
    let output = countersign(flow, arguments).await?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(matches!(output.status.code(), Some(0 | 1)), "{arguments:?} ended with {}: {out}{err}", output.status);
    serde_json::from_str(&out).with_context(|| format!("{arguments:?} printed {out}"))
}

/// The words of the error that a line of JSON on standard error tells.
pub fn error(code: i32, said: &str) -> anyhow::Result<Value> {
    let told: Value = serde_json::from_str(said.trim())?;
    let name = told["code"].as_str().context("no code")?;
    ensure!(told["exit"] == code && !name.is_empty() && !name.contains(char::is_lowercase), "{told}");
    ensure!(told["error"].as_str().is_some_and(|words| !words.is_empty()), "{told}");
    Ok(told["error"].clone())
}

pub fn count(answer: &Value, what: &str) -> u64 {
    answer[what].as_u64().unwrap_or(u64::MAX)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_message_is_sent_found_and_listed() -> anyhow::Result<()> {
    let mut flow = Flow::new("command", SETUP).await?;
    flow.start(&Which::ALL).await?;
    let send = ["send", "--exchange", "orders", "--type", "order.created", "--key", "A-1", "--body", "{}"];
    let first = expect(&flow, 0, &send).await?;
    let again = expect(&flow, 0, &send).await?;
    ensure!(first["id"] == again["id"] && first["duplicate"] == false && again["duplicate"] == true, "{first} {again}");
    let id = first["id"].as_str().context("no id")?.to_owned();
    flow.all_signed(std::slice::from_ref(&id)).await?;
    let found = expect(&flow, 0, &["get", &id, "--body"]).await?;
    ensure!(found["body"] == "{}" && found["required"] == json!([SUBSCRIPTION]), "{found}");
    ensure!(found["deliveries"][0]["state"] == "done", "{found}");
    ensure!(expect(&flow, 0, &["get", "--key", "A-1"]).await?["id"] == first["id"], "not found by its key");
    let listed = expect(&flow, 0, &["list", "--state", "done"]).await?;
    ensure!(listed["deliveries"][0]["message_id"] == first["id"] && listed["more"] == false, "{listed}");
    expect(&flow, 2, &["resend", &id]).await?;
    expect(&flow, 2, &["get", "no-uuid"]).await?;
    expect(&flow, 2, &["list", "--state", "wonderful"]).await?;
    expect(&flow, 2, &["send", "--exchange", "nowhere", "--type", "order.created", "--body", "{}"]).await?;
    expect(&flow, 2, &["send", "--exchange", "orders", "--type", "order.created"]).await?;
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_sent_line_by_line_and_never_twice() -> anyhow::Result<()> {
    let mut flow = Flow::new("command_file", SETUP).await?;
    flow.start(&Which::ALL).await?;
    let mut lines: Vec<String> = (0..1_200).map(|order| format!("{{\"order_id\":\"B-{order}\"}}")).collect();
    lines.push("{\"order_id\":\"\"}".into());
    lines.push("not json".into());
    lines.push("{\"order_id\":\"B-0\"}".into());
    lines.push("{\"order_id\":\"B-1\",\"changed\":true}".into());
    let file = flow.ground.path("orders.jsonl");
    std::fs::write(&file, lines.join("\n"))?;
    let file = file.display().to_string();
    let send = ["send", "--exchange", "orders", "--type", "order.created", "--file", &file, "--id-field", "order_id"];
    let first = expect(&flow, 1, &send).await?;
    ensure!((count(&first, "accepted"), count(&first, "duplicate"), count(&first, "rejected")) == (1_200, 1, 3), "{first}");
    let rejected: Vec<_> =
        first["rejected_lines"].as_array().context("no lines")?.iter().map(|line| count(line, "line")).collect();
    ensure!(rejected == [1_201, 1_202, 1_204], "{first}");
    let again = expect(&flow, 1, &send).await?;
    ensure!((count(&again, "accepted"), count(&again, "duplicate"), count(&again, "rejected")) == (0, 1_201, 3), "{again}");
    flow.effects_reach(1_200).await?;
    ensure!(flow.system.effects().await?.total == 1_200, "a line was sent twice");
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_that_are_away_are_named_and_nothing_is_lost() -> anyhow::Result<()> {
    let flow = Flow::new("command_away", SETUP).await?;
    let said = expect(&flow, 3, &["send", "--exchange", "orders", "--type", "order.created", "--body", "{}"]).await?;
    ensure!(said.as_str().is_some_and(|said| said.contains("upstream") && said.contains("--upstream")), "{said}");
    let said = expect(&flow, 3, &["list"]).await?;
    ensure!(said.as_str().is_some_and(|said| said.contains("callback")), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_topology_is_applied_and_verified() -> anyhow::Result<()> {
    let flow = Flow::new("command_topology", SETUP).await?;
    let file = flow.system.topology_file().display().to_string();
    let missing = expect(&flow, 1, &["topology", "verify", "--file", &file]).await?;
    ensure!(missing["differences"].as_array().is_some_and(|differences| !differences.is_empty()), "{missing}");
    let applied = expect(&flow, 0, &["topology", "apply", "--file", &file]).await?;
    ensure!(count(&applied, "queues") > 5, "{applied}");
    let same = expect(&flow, 0, &["topology", "verify", "--file", &file]).await?;
    ensure!(same["differences"] == json!([]), "{same}");
    let unsound = flow.ground.path("unsound.toml");
    std::fs::write(&unsound, "version = 1\n[[subscription]]\nname = \"a\"\nbind = [{ exchange = \"nowhere\" }]\n")?;
    let said = expect(&flow, 2, &["topology", "apply", "--file", &unsound.display().to_string()]).await?;
    ensure!(said.as_str().is_some_and(|said| said.contains("nowhere") && said.contains("[[exchange]]")), "{said}");
    Ok(())
}
