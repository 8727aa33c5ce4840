//! The clients in other languages that are shipped, against the real services: each is small, and each loses and doubles nothing.

use anyhow::ensure;
use countersign_flow::{AUDIT, Flow, Gate, Language, PATIENCE, Setup, Side, audit, id_in, shipped};
use countersign_launcher::{Extras, Ground, Program, SUBSCRIPTION, Which, binary, free_port, wait_until};

/// Lines that an example may have, comments included.
const EXAMPLE_LINES: usize = 30;

const BATCHES: Setup = Setup { postgres: false, max_batch: 256 };
const PLAIN: Setup = Setup { postgres: true, max_batch: 1 };

async fn with_audit(test: &str, setup: Setup) -> anyhow::Result<Flow> {
    Flow::with_extras(test, setup, Extras { topology: audit()?, ..Extras::default() }).await
}

async fn with_handler(test: &str, address: &str) -> anyhow::Result<Flow> {
    let endpoint = Some(format!("http://{address}/orders"));
    Flow::with_extras(test, BATCHES, Extras { endpoint, ..Extras::default() }).await
}

async fn signed(flow: &Flow, ids: &[String], subscription: &str) -> anyhow::Result<()> {
    for id in ids {
        let what = format!("{subscription} to sign {id}");
        wait_until(&what, PATIENCE, async || flow.state_of(id, subscription).await.is_ok_and(|state| state == "done")).await?;
    }
    Ok(())
}

/// The auditor took exactly these messages, and each had one effect.
async fn audited_once(flow: &Flow, ids: &[String]) -> anyhow::Result<()> {
    let (mut taken, effects) = flow.audited().await?;
    let mut wanted = ids.to_vec();
    taken.sort();
    wanted.sort();
    ensure!(taken == wanted, "taken {taken:?}, sent {wanted:?}");
    ensure!(effects == i64::try_from(ids.len())?, "{effects} effects of {} messages", ids.len());
    Ok(())
}

#[test]
fn every_example_is_short() -> anyhow::Result<()> {
    let mut programs = 0;
    for entry in std::fs::read_dir(shipped(""))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "py" || extension == "mjs") {
            let lines = std::fs::read_to_string(&path)?.lines().count();
            ensure!(lines <= EXAMPLE_LINES, "{} has {lines} lines, {EXAMPLE_LINES} are the most", path.display());
            programs += 1;
        }
    }
    ensure!(programs >= 4, "only {programs} examples were found");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_of_python_is_handled_by_node() -> anyhow::Result<()> {
    let port = free_port()?;
    let mut flow = with_handler("python_to_node", &format!("127.0.0.1:{port}")).await?;
    let handler = flow.handler(Language::Node, port).await?;
    flow.start(&Which::ALL).await?;
    let first = flow.produced("A-17", r#"{"order_id":"A-17"}"#).await?;
    let other = flow.produced("A-18", r#"{"order_id":"A-18"}"#).await?;
    ensure!(first != other, "two orders have one id");
    let again = flow.produced("A-17", r#"{"order_id":"A-17"}"#).await?;
    ensure!(first == again, "the same order was {first} and is {again}");
    let (code, said) = flow.produce("A-17", r#"{"order_id":"A-99"}"#).await?;
    ensure!(code == Some(1) && said.contains("ALREADY_EXISTS") && said.contains("another fingerprint"), "{code:?}: {said}");

    let unreadable = flow.produced("A-19", "no JSON").await?;
    flow.all_in_state(std::slice::from_ref(&unreadable), "parked").await?;
    signed(&flow, &[first.clone(), other.clone()], SUBSCRIPTION).await?;
    let effects = flow.handled(Language::Node).await?;
    ensure!(effects == [first.clone(), other], "effects: {effects:?}");
    let verified = async || {
        let name = "countersign_checks_total{verdict=\"verified\"}";
        flow.system.metric(Which::Callback, name).await.is_ok_and(|count| count >= 2.0)
    };
    wait_until("both orders to be verified", PATIENCE, verified).await?;
    ensure!(flow.history(&first, "resending").await? == 0, "a signed order was sent again");
    handler.terminate()?;
    let status = handler.wait(PATIENCE).await?;
    ensure!(status.success(), "handler.mjs ended with {status}");
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_tries_until_upstream_is_there() -> anyhow::Result<()> {
    let mut flow = Flow::new("producer_waits", BATCHES).await?;
    flow.start(&[Which::Callback, Which::Downstream]).await?;
    let producer = flow.producer("A-17", r#"{"order_id":"A-17"}"#).await?;
    producer.wait_for_log("UNAVAILABLE", PATIENCE).await?;
    flow.start(&[Which::Upstream]).await?;
    let status = producer.wait(PATIENCE).await?;
    ensure!(status.success(), "producer.py ended with {status}: {}", producer.log_text());
    let ids = [id_in(&producer.log_text())?];
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    flow.finish().await
}

/// Kills a handler that has had its effects and whose answers have not come through, and starts it again.
async fn handler_killed(test: &str, language: Language) -> anyhow::Result<()> {
    let port = free_port()?;
    let gate = Gate::before(format!("127.0.0.1:{port}")).await?;
    let mut flow = with_handler(test, &gate.address().to_string()).await?;
    let handler = flow.handler(language, port).await?;
    flow.start(&Which::ALL).await?;
    gate.hold(Side::Server);
    let mut ids = Vec::new();
    for order in ["A-17", "A-18", "A-19"] {
        ids.push(flow.produced(order, &format!("{{\"order_id\":{order:?}}}")).await?);
    }
    let written = async || flow.handled(language).await.is_ok_and(|effects| effects.len() == ids.len());
    wait_until("the effects to be on disk", PATIENCE, written).await?;
    handler.kill9();
    for id in &ids {
        let state = flow.state_of(id, SUBSCRIPTION).await?;
        ensure!(state != "done", "{id} is signed, and its handler never answered");
    }
    gate.release(Side::Server);
    let _handler = flow.handler(language, port).await?;
    signed(&flow, &ids, SUBSCRIPTION).await?;
    let effects = flow.handled(language).await?;
    ensure!(effects == ids, "effects {effects:?}, sent {ids:?}");
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_killed_between_effect_and_answer_has_one_effect() -> anyhow::Result<()> {
    handler_killed("node_killed", Language::Node).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_killed_between_effect_and_answer_has_one_effect() -> anyhow::Result<()> {
    handler_killed("python_killed", Language::Python).await
}

/// Kills the auditor between its effect and its receipt, or between the receipt and the ack, and starts it again.
async fn auditor_killed(mut flow: Flow, has_signed: bool) -> anyhow::Result<()> {
    let amqp = flow.ground.amqp_url();
    let broker = amqp.split(['@', '/']).nth(3).unwrap_or_default();
    let gate = Gate::before(broker.to_owned()).await?;
    let through = amqp.replace(broker, &gate.address().to_string());
    flow.start(&Which::ALL).await?;
    let auditor = flow.consumer(&through).await?;
    let mut ids = flow.send(0, 3).await?;
    signed(&flow, &ids, AUDIT).await?;
    // From here on the broker gets nothing of the auditor's: neither receipt nor ack.
    gate.hold(Side::Client);
    let caught = flow.send(3, 1).await?;
    let taken = async || flow.audited().await.is_ok_and(|(taken, _)| taken.contains(&caught[0]));
    wait_until("the auditor to have taken the order", PATIENCE, taken).await?;
    ensure!(flow.state_of(&caught[0], AUDIT).await? != "done", "the receipt got through");
    if has_signed {
        // Now it gets the receipt; the auditor never learns of it, and does not ack.
        gate.hold(Side::Server);
        gate.release(Side::Client);
        signed(&flow, &caught, AUDIT).await?;
    }
    auditor.kill9();
    gate.release(Side::Client);
    gate.release(Side::Server);
    let _auditor = flow.consumer(&through).await?;
    ids.extend(caught);
    ids.extend(flow.send(4, 2).await?);
    signed(&flow, &ids, AUDIT).await?;
    signed(&flow, &ids, SUBSCRIPTION).await?;
    flow.queue_reaches(AUDIT, 0).await?;
    audited_once(&flow, &ids).await?;
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_auditor_killed_before_its_receipt_signs_what_it_took() -> anyhow::Result<()> {
    auditor_killed(with_audit("auditor_unsigned", BATCHES).await?, false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_auditor_killed_before_its_ack_has_one_effect() -> anyhow::Result<()> {
    auditor_killed(with_audit("auditor_unacked", PLAIN).await?, true).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_auditor_never_got_is_sent_again_after_the_time_out() -> anyhow::Result<()> {
    let mut flow = with_audit("auditor_lost", BATCHES).await?;
    flow.start(&Which::ALL).await?;
    let ids = flow.send(0, 2).await?;
    flow.queue_reaches(AUDIT, 2).await?;
    ensure!(flow.ground.purge(AUDIT).await? == 2, "the purge did not hit both");
    let _auditor = flow.consumer(&flow.ground.amqp_url()).await?;
    signed(&flow, &ids, AUDIT).await?;
    audited_once(&flow, &ids).await?;
    for id in &ids {
        let resends = flow.history(id, "resending").await?;
        ensure!((1..=3).contains(&resends), "the lost message {id} was resent {resends} times");
    }
    signed(&flow, &ids, SUBSCRIPTION).await?;
    flow.each_effected_once(&ids).await?;
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_upstream_never_sent_does_not_stop_the_auditor() -> anyhow::Result<()> {
    let mut flow = with_audit("auditor_litter", BATCHES).await?;
    flow.start(&[Which::Callback, Which::Upstream]).await?;
    flow.litter(AUDIT).await?;
    let ids = flow.send(0, 2).await?;
    let auditor = flow.consumer(&flow.ground.amqp_url()).await?;
    signed(&flow, &ids, AUDIT).await?;
    flow.dead_letters_reach("audit", 1).await?;
    audited_once(&flow, &ids).await?;
    ensure!(auditor.is_alive(), "consumer.py has ended: {}", auditor.log_text());
    flow.finish().await
}

#[tokio::test]
async fn the_shipped_topology_can_be_applied() -> anyhow::Result<()> {
    let ground = Ground::new("examples_topology").await?;
    let apply = Program::new(binary("countersign")?)
        .args(["topology", "apply", "--amqp-url", &ground.amqp_url(), "--file"])
        .arg(shipped("topology.toml"))
        .log_to(ground.path("apply.log"))
        .spawn()?;
    let status = apply.wait(PATIENCE).await?;
    ensure!(status.success(), "{}", apply.log_text());
    ensure!(ground.queue_depth(AUDIT).await? == 0, "the queue is not there");
    Ok(())
}
