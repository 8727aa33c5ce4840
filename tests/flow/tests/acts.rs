//! What operators do at upstream and downstream is one row of the audit each: though callback is killed between the row and the ack, though the
//! broker does not answer, and with everybody's own name.

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, Gate, PATIENCE, Setup, Side};
use countersign_launcher::{SUBSCRIPTION, Which, wait_until};
use serde_json::{Value, json};

use crate::access::{PAYLOAD, guard, may, may_not, run};
use crate::command::SETUP;

const REASON: &str = "a roll-out went wrong";

/// Service, operator, act, what it is about and result.
type Row = [String; 5];

fn row(service: &str, by: &str, act: &str, about: &str, result: &str) -> Row {
    [service, by, act, about, result].map(str::to_owned)
}

/// A gate between upstream and downstream and the broker; callback has none.
async fn gate(flow: &Flow) -> anyhow::Result<Gate> {
    let url = flow.ground.amqp_url();
    let broker = url.split('@').nth(1).and_then(|rest| rest.split('/').next()).context("no address")?.to_owned();
    let gate = Gate::before(broker.clone()).await?;
    for which in [Which::Upstream, Which::Downstream] {
        let file = flow.ground.path(&format!("{}.toml", which.name()));
        let text = std::fs::read_to_string(&file)?;
        ensure!(text.contains(&broker), "{} names no broker", file.display());
        std::fs::write(&file, text.replace(&broker, &gate.address().to_string()))?;
    }
    Ok(gate)
}

/// The whole audit as a viewer sees it, with these further arguments; sorted.
async fn audit(flow: &Flow, arguments: &[&str]) -> anyhow::Result<Vec<Row>> {
    let answer = may(flow, "vera", &[&["audit"], arguments].concat()).await?;
    ensure!(!answer.to_string().contains(PAYLOAD), "the audit has a payload: {answer}");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let words = ["service", "by", "act", "about", "result"];
    let rows = answer["acts"].as_array().context("no acts")?.iter().map(|entry| words.map(|word| text(&entry[word])));
    let mut rows: Vec<Row> = rows.collect();
    rows.sort();
    Ok(rows)
}

async fn audit_becomes(flow: &Flow, mut expected: Vec<Row>) -> anyhow::Result<()> {
    expected.sort();
    let is = async || audit(flow, &[]).await.is_ok_and(|rows| rows == expected);
    if let Err(late) = wait_until("the audit to be as expected", PATIENCE, is).await {
        return Err(late.context(format!("it has {:#?}, expected {expected:#?}", audit(flow, &[]).await?)));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_act_is_one_row_on_sqlite() -> anyhow::Result<()> {
    each_act_is_one_row(Flow::new("acts", SETUP).await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_act_is_one_row_on_postgres() -> anyhow::Result<()> {
    each_act_is_one_row(Flow::new("acts", Setup { postgres: true, ..SETUP }).await?).await
}

async fn each_act_is_one_row(mut flow: Flow) -> anyhow::Result<()> {
    guard(&flow)?;
    let gate = gate(&flow).await?;
    flow.start(&Which::ALL).await?;
    let body = json!({"secret": PAYLOAD}).to_string();
    let send = ["send", "--exchange", "orders", "--type", "order.created", "--key", "A-1", "--body", &body];
    let id = may(&flow, "shop", &send).await?["id"].as_str().context("no id")?.to_owned();
    flow.effects_reach(1).await?;
    ensure!(may(&flow, "otto", &["get", "--key", "A-1", "--body", "--by", "ada"]).await?["body"] == body, "an operator sees it");
    may_not(&flow, "vera", &["get", &id, "--body"]).await?;

    // Callback is away, and dies right after it has written what waited for it.
    flow.system.kill9(Which::Callback);
    may(&flow, "otto", &["pause", SUBSCRIPTION, "--reason", REASON, "--by", "ada"]).await?;
    may(&flow, "otto", &["resume", SUBSCRIPTION]).await?;
    may_not(&flow, "vera", &["pause", SUBSCRIPTION, "--reason", REASON]).await?;
    may_not(&flow, "vera", &["outbox", "release", &id]).await?;
    let partly = run(&flow, "otto", &["outbox", "release", &id]).await?;
    ensure!(partly.status.code() == Some(1), "it is no row of the outbox: {}", partly.status);
    let point = "callback.receipt_after_persist";
    flow.system.spawn(Which::Callback, &format!("{point}=1*return"))?;
    flow.system.dies_at(Which::Callback, point, PATIENCE).await?;
    flow.start(&[Which::Callback]).await?;
    let mut expected = vec![
        row("upstream", "otto", "reveal_message", &id, "done"),
        row("upstream", "vera", "reveal_message", &id, "refused"),
        row("downstream", "otto", "pause", SUBSCRIPTION, "done"),
        row("downstream", "otto", "resume", SUBSCRIPTION, "done"),
        row("downstream", "vera", "pause", "", "refused"),
        row("upstream", "vera", "release", "", "refused"),
        row("upstream", "otto", "release", &id, "refused"),
    ];
    audit_becomes(&flow, expected.clone()).await?;

    // The broker does not answer: a payload is not shown, a pause holds all the same, and both are told when it does.
    gate.hold(Side::Server);
    let refused = run(&flow, "otto", &["get", &id, "--body"]).await?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && said.contains("UNAVAILABLE") && said.contains("nothing was done"), "{said}");
    let paused = may(&flow, "otto", &["pause", SUBSCRIPTION, "--reason", REASON]).await?;
    ensure!(paused["paused"]["reason"] == REASON, "{paused}");
    gate.release(Side::Server);
    expected.push(row("upstream", "otto", "reveal_message", &id, "failed"));
    expected.push(row("downstream", "otto", "pause", SUBSCRIPTION, "done"));
    audit_becomes(&flow, expected.clone()).await?;

    // Downstream dies in an act: it took hold, and its row stays begun.
    flow.system.kill9(Which::Downstream);
    let point = "audit.after_act";
    flow.system.start(Which::Downstream, &format!("{point}=1*return")).await?;
    ensure!(!run(&flow, "otto", &["resume", SUBSCRIPTION]).await?.status.success(), "it answered, and should be dead");
    flow.system.dies_at(Which::Downstream, point, PATIENCE).await?;
    flow.start(&[Which::Downstream]).await?;
    ensure!(may(&flow, "vera", &["subscriptions"]).await?["subscriptions"][0]["paused"].is_null(), "the resume took hold");
    expected.push(row("downstream", "otto", "resume", SUBSCRIPTION, "begun"));
    audit_becomes(&flow, expected.clone()).await?;

    let at_upstream = audit(&flow, &["--service", "upstream"]).await?;
    ensure!(at_upstream.len() == 5 && at_upstream.iter().all(|[service, ..]| service == "upstream"), "{at_upstream:?}");
    ensure!(audit(&flow, &[&id]).await?.len() == 4, "three questions for its body and a release are about it");
    ensure!(audit(&flow, &["--act", "pause", "--by", "otto"]).await?.len() == 2, "two pauses of otto");
    for which in Which::ALL {
        let log = flow.system.log_of(which)?;
        ensure!(!log.contains(PAYLOAD), "{} logs a payload", which.name());
        let missing = flow.system.log_of(which)?.contains("missing from the audit");
        ensure!(!missing, "{} has lost an act", which.name());
    }
    Ok(())
}
