//! Who may do what: services that know their callers, from end to end. Callback is a peer of upstream, and operators sign with their own names.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, Setup};
use countersign_launcher::{SUBSCRIPTION, Which, wait_until};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::command::{SETUP, command};

/// Name and role; the token is `<name>'s token`.
const CALLERS: [(&str, &str); 5] =
    [("shop", "producer"), ("callback", "peer"), ("vera", "viewer"), ("otto", "operator"), ("ada", "admin")];
/// What no log may hold.
pub const PAYLOAD: &str = "canary-7c1f";

fn token(name: &str) -> String {
    format!("{name}'s token")
}

/// Has every service ask its callers who they are.
pub fn guard(flow: &Flow) -> anyhow::Result<()> {
    let hash = |name: &str| Sha256::digest(token(name)).iter().fold(String::new(), |hash, byte| hash + &format!("{byte:02x}"));
    let entry =
        |(name, role): (&str, &str)| format!("[[tokens]]\nname = {name:?}\nroles = [{role:?}]\nsha256 = \"{}\"\n", hash(name));
    let tokens = flow.ground.path("tokens.toml");
    std::fs::write(&tokens, CALLERS.map(entry).concat())?;
    for (name, _) in CALLERS {
        std::fs::write(flow.ground.path(&format!("{name}.token")), token(name))?;
    }
    let shown = |path: std::path::PathBuf| path.display().to_string();
    let (tokens, own) = (shown(tokens), shown(flow.ground.path("callback.token")));
    for which in [Which::Upstream, Which::Downstream, Which::Callback] {
        let file = flow.ground.path(&format!("{}.toml", which.name()));
        let client = if which == Which::Callback { format!("\n[client]\ntoken_file = {own:?}\n") } else { String::new() };
        let text = std::fs::read_to_string(&file)?;
        std::fs::write(&file, format!("{text}\n[access]\ntokens_file = {tokens:?}\n{client}"))?;
    }
    Ok(())
}

/// Runs the command as one of them; an empty name shows nothing.
pub async fn run(flow: &Flow, name: &str, arguments: &[&str]) -> anyhow::Result<Output> {
    let mut command = command(flow, arguments)?;
    if !name.is_empty() {
        command.env("COUNTERSIGN_TOKEN_FILE", flow.ground.path(&format!("{name}.token")));
    }
    Ok(tokio::time::timeout(Duration::from_mins(1), command.output()).await??)
}

pub async fn may(flow: &Flow, name: &str, arguments: &[&str]) -> anyhow::Result<Value> {
    let output = run(flow, name, arguments).await?;
    ensure!(output.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

pub async fn may_not(flow: &Flow, name: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let output = run(flow, name, arguments).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    let code = if name.is_empty() { "UNAUTHENTICATED" } else { "PERMISSION_DENIED" };
    ensure!(output.status.code() == Some(2) && said.contains(code), "{name} {arguments:?}: {} {said}", output.status);
    Ok(())
}

/// The text of a service's metrics as this caller sees it.
async fn metrics(flow: &Flow, which: Which, name: &str) -> anyhow::Result<(u16, String)> {
    let request = reqwest::Client::new().get(format!("{}/metrics", flow.system.http_url(which)));
    let answer = request.bearer_auth(token(name)).send().await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqlite() -> anyhow::Result<()> {
    each_does_what_its_role_may_and_signs_with_its_own_name(Flow::new("access", SETUP).await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres() -> anyhow::Result<()> {
    each_does_what_its_role_may_and_signs_with_its_own_name(Flow::new("access", Setup { postgres: true, ..SETUP }).await?).await
}

async fn each_does_what_its_role_may_and_signs_with_its_own_name(mut flow: Flow) -> anyhow::Result<()> {
    guard(&flow)?;
    flow.start(&[Which::Upstream, Which::Callback]).await?;
    let body = json!({"secret": PAYLOAD}).to_string();
    let send = |key: &'static str| ["send", "--exchange", "orders", "--type", "order.created", "--key", key, "--body", &body];
    may_not(&flow, "", &send("A-1")).await?;
    may_not(&flow, "vera", &send("A-1")).await?;
    let id = may(&flow, "shop", &send("A-1")).await?["id"].as_str().context("no id")?.to_owned();

    // It is lost, so callback has to show itself to upstream.
    flow.queue_reaches(SUBSCRIPTION, 1).await?;
    ensure!(flow.ground.purge(SUBSCRIPTION).await? == 1, "not there");
    flow.start(&[Which::Downstream]).await?;
    flow.effects_reach(1).await?;
    let state = async |wanted: &str| {
        let what = format!("{id} to be {wanted}");
        wait_until(&what, countersign_flow::PATIENCE, async || {
            let found = may(&flow, "vera", &["get", &id]).await;
            found.is_ok_and(|found| found["deliveries"][0]["state"] == wanted)
        })
        .await
    };
    state("done").await?;
    may_not(&flow, "vera", &["get", &id, "--body"]).await?;
    ensure!(may(&flow, "otto", &["get", &id, "--body"]).await?["body"] == body, "an operator sees the body");
    may_not(&flow, "shop", &["list"]).await?;

    // An operator parks and may not give up; the audit has everybody's own name, whatever they say.
    flow.system.behave(&json!({"status": 503})).await?;
    let id = may(&flow, "shop", &send("A-2")).await?["id"].as_str().context("no id")?.to_owned();
    let other = id.clone();
    wait_until("it to be tried", countersign_flow::PATIENCE, async || may(&flow, "vera", &["get", &other]).await.is_ok()).await?;
    let known = async || may(&flow, "otto", &["park", &id, "--reason", "look at it", "--by", "ada"]).await.is_ok();
    wait_until("it to be parked", countersign_flow::PATIENCE, known).await?;
    may_not(&flow, "vera", &["park", &id]).await?;
    may_not(&flow, "otto", &["discard", &id, "--reason", "no"]).await?;
    may(&flow, "ada", &["discard", &id, "--reason", "a test"]).await?;
    let acts = may(&flow, "vera", &["audit"]).await?;
    let rows = acts["acts"]
        .as_array()
        .context("no acts")?
        .iter()
        .map(|row| (row["by"].clone(), row["act"].clone(), row["result"].clone()));
    let rows: Vec<_> = rows.collect();
    for expected in
        [("otto", "park", "done"), ("vera", "park", "refused"), ("otto", "discard", "refused"), ("ada", "discard", "done")]
    {
        let expected = (json!(expected.0), json!(expected.1), json!(expected.2));
        ensure!(rows.contains(&expected), "{expected:?} is missing in {rows:?}");
    }

    for which in [Which::Upstream, Which::Downstream, Which::Callback] {
        let (status, text) = metrics(&flow, which, "vera").await?;
        ensure!(status == 200 && !text.contains(PAYLOAD) && !text.contains(&token("vera")), "{}: {status}", which.name());
        let violated =
            text.lines().filter(|line| line.starts_with("countersign_invariant_violations_total") && !line.ends_with(" 0"));
        ensure!(violated.count() == 0, "{text}");
        ensure!(metrics(&flow, which, "shop").await?.0 == 403, "{}", which.name());
        let log = flow.system.log_of(which)?;
        ensure!(!log.contains(PAYLOAD) && !log.contains("'s token"), "{} logs what it must not: {log}", which.name());
    }
    Ok(())
}
