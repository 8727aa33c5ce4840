//! Dead letters as an operator meets them: callback takes them in, what died of each cause is listed, shown, sent again, discarded.

mod killed;
mod redrive;

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, PATIENCE, Setup};
use countersign_launcher::{Extras, SUBSCRIPTION, Which, wait_until};
use countersign_wire::names;
use lapin::options::{BasicGetOptions, BasicNackOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::{Value, json};

use crate::command::{SETUP, expect};

pub const DEAD: &str = "inventory.orders.dead";
pub const QUARANTINE: &str = "countersign.quarantine";
/// The id of a message that no upstream knows.
const STRANGER: &str = "019abcde-0000-7000-8000-000000000001";

/// `countersign dead VERB --subscription inventory.orders …`.
pub async fn dead(flow: &Flow, code: i32, verb: &str, options: &[&str]) -> anyhow::Result<Value> {
    let mut arguments = vec!["dead", verb];
    let show = verb == "show";
    arguments.extend(if show { &options[..1] } else { &[] });
    arguments.extend(["--subscription", SUBSCRIPTION]);
    arguments.extend(if show { &options[1..] } else { options });
    expect(flow, code, &arguments).await.with_context(|| format!("dead {verb} {options:?}"))
}

/// What the audit has of orders about dead letters: act and result, oldest first.
pub async fn audited(flow: &Flow) -> anyhow::Result<Vec<(String, String)>> {
    let listed = expect(flow, 0, &["audit"]).await?;
    let word = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let rows = listed["acts"].as_array().context("no acts")?.iter().rev();
    let rows = rows.filter(|row| word(row, "act").ends_with("_dead_letters")).map(|row| (word(row, "act"), word(row, "result")));
    Ok(rows.collect())
}

/// That these orders are all there are; `redrive` or `discard`, and the result.
pub async fn audit_has(flow: &Flow, expected: &[(&str, &str)]) -> anyhow::Result<()> {
    let found = audited(flow).await?;
    let expected: Vec<_> = expected.iter().map(|(act, result)| (format!("{act}_dead_letters"), (*result).to_owned())).collect();
    ensure!(found == expected, "one row for each order: {found:?}");
    Ok(())
}

async fn channel(flow: &Flow) -> anyhow::Result<(Connection, Channel)> {
    let connection = Connection::connect(&flow.ground.amqp_url(), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok((connection, channel))
}

/// Publishes to the work queue what names its message, but has no readable attempt.
async fn garble(flow: &Flow) -> anyhow::Result<()> {
    let (_connection, channel) = channel(flow).await?;
    let text = |text: &str| AMQPValue::LongString(LongString::from(text.as_bytes()));
    let headers = std::collections::BTreeMap::from([
        (names::WIRE.into(), AMQPValue::LongInt(1)),
        (names::FINGERPRINT.into(), text("00112233445566778899aabbccddeeff")),
        (names::SENT_AT.into(), AMQPValue::LongLongInt(1_700_000_000_000)),
        (names::ATTEMPT.into(), AMQPValue::LongLongInt(-1)),
    ]);
    let properties = BasicProperties::default()
        .with_message_id(STRANGER.into())
        .with_app_id("shop".into())
        .with_delivery_mode(2)
        .with_headers(FieldTable::from(headers));
    channel.basic_publish("".into(), SUBSCRIPTION.into(), BasicPublishOptions::default(), b"?", properties).await?.await?;
    Ok(())
}

/// Publishes to a queue what nobody can read.
pub async fn litter(flow: &Flow, queue: &str, count: u32) -> anyhow::Result<()> {
    let (_connection, channel) = channel(flow).await?;
    for number in 0..count {
        let properties = BasicProperties::default().with_message_id(format!("litter-{number}").into()).with_delivery_mode(2);
        let (options, body) = (BasicPublishOptions::default(), format!("no message {number} for {queue}"));
        channel.basic_publish("".into(), queue.into(), options, body.as_bytes(), properties).await?.await?;
    }
    Ok(())
}

/// How callback sees a message: state, reason, epoch.
pub async fn delivery(flow: &Flow, id: &str) -> anyhow::Result<(String, String, u32)> {
    let found = flow.deliveries().await?.into_iter().find(|delivery| delivery.message_id == id).context("not known")?;
    Ok((found.state, found.reason, found.attempt.unwrap_or_default().epoch))
}

/// Waits until callback says so.
pub async fn delivery_is(flow: &Flow, id: &str, state: &str, reason: &str, epoch: u32) -> anyhow::Result<()> {
    let as_wanted = |found: &(String, String, u32)| found.0 == state && found.1.starts_with(reason) && found.2 == epoch;
    let reached = async || delivery(flow, id).await.is_ok_and(|found| as_wanted(&found));
    let what = format!("{id} to be {state} {reason:?} in epoch {epoch}");
    let waited = wait_until(&what, PATIENCE, reached).await;
    waited.with_context(|| format!("looked at {id}"))
}

/// One message for each way to die. Returns the ids of: rejected, out of retries, poison, conflict.
async fn one_of_each(flow: &mut Flow) -> anyhow::Result<[String; 4]> {
    flow.start(&Which::ALL).await?;
    flow.system.behave(&json!({"status": 422})).await?;
    let rejected = flow.send(0, 1).await?.remove(0);
    delivery_is(flow, &rejected, "parked", "rejected", 0).await?;
    flow.system.behave(&json!({"status": 503})).await?;
    let exhausted = flow.send(1, 1).await?.remove(0);
    delivery_is(flow, &exhausted, "parked", "retries_exhausted", 0).await?;
    flow.system.behave(&json!({})).await?;
    let known = flow.send(2, 1).await?.remove(0);
    flow.all_signed(std::slice::from_ref(&known)).await?;
    flow.forge(&known, "00112233445566778899aabbccddeeff").await?;
    garble(flow).await?;
    flow.dead_letters_reach(SUBSCRIPTION, 4).await?;
    // With `max_crashes = 0` one crash is one too many.
    flow.system.stop(Which::Downstream).await?;
    flow.system.start(Which::Downstream, "downstream.after_claim=1*return").await?;
    let poison = flow.send(3, 1).await?.remove(0);
    flow.system.dies_at(Which::Downstream, "downstream.after_claim", PATIENCE).await?;
    flow.start(&[Which::Downstream]).await?;
    delivery_is(flow, &poison, "parked", "poison", 0).await?;
    flow.dead_letters_reach(SUBSCRIPTION, 5).await?;
    flow.queue_reaches(DEAD, 0).await?;
    Ok([rejected, exhausted, poison, known])
}

async fn with_one_of_each(test: &str, postgres: bool) -> anyhow::Result<(Flow, [String; 4])> {
    let extras = Extras { downstream: "max_crashes = 0".into(), ..Extras::default() };
    let mut flow = Flow::with_extras(test, Setup { postgres, ..SETUP }, extras).await?;
    let ids = one_of_each(&mut flow).await?;
    Ok((flow, ids))
}

fn reasons(listed: &Value) -> Vec<String> {
    let letters = listed["letters"].as_array().into_iter().flatten();
    let mut reasons: Vec<_> = letters.map(|letter| letter["reason"].as_str().unwrap_or_default().to_owned()).collect();
    reasons.sort();
    reasons
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_death_is_dealt_with_on_sqlite() -> anyhow::Result<()> {
    every_death_is_dealt_with("dead_each_sqlite", false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_death_is_dealt_with_on_postgres() -> anyhow::Result<()> {
    every_death_is_dealt_with("dead_each_postgres", true).await
}

async fn every_death_is_dealt_with(test: &str, postgres: bool) -> anyhow::Result<()> {
    let (flow, ids) = with_one_of_each(test, postgres).await?;
    they_are_listed_and_shown(&flow, &ids).await?;
    a_dry_run_changes_nothing(&flow).await?;
    they_are_redriven(&flow, &ids).await?;
    the_rest_is_discarded(flow, &ids).await
}

async fn they_are_listed_and_shown(flow: &Flow, [rejected, exhausted, ..]: &[String; 4]) -> anyhow::Result<()> {
    let all = dead(flow, 0, "list", &[]).await?;
    ensure!(reasons(&all) == ["conflict", "poison", "rejected", "retries_exhausted", "undecodable"], "{all}");
    ensure!(all["next_page_token"] == "", "{all}");
    let first = dead(flow, 0, "list", &["--limit", "3"]).await?;
    let token = first["next_page_token"].as_str().context("no token")?;
    let second = dead(flow, 0, "list", &["--limit", "3", "--page-token", token]).await?;
    ensure!(reasons(&first).len() == 3 && reasons(&second).len() == 2, "{first} {second}");
    ensure!(!all.to_string().contains("\\\"order\\\":0"), "a body was shown: {all}");
    for (options, expected) in [
        (vec!["--reason", "poison,rejected"], vec!["poison", "rejected"]),
        (vec!["--id", rejected], vec!["rejected"]),
        (vec!["--type", "order.created", "--from", "shop", "--reason", "retries_exhausted"], vec!["retries_exhausted"]),
        (vec!["--type", "order.cancelled"], vec![]),
        (vec!["--routing-key", "order.*", "--reason", "rejected,poison"], vec!["poison", "rejected"]),
        (vec!["--routing-key", "stock.#"], vec![]),
        (vec!["--before", "1h"], vec![]),
        (vec!["--after", "1h", "--reason", "conflict"], vec!["conflict"]),
        (vec!["--before", "2000-01-01T00:00:00Z"], vec![]),
    ] {
        let listed = dead(flow, 0, "list", &options).await?;
        ensure!(reasons(&listed) == expected, "{options:?}: {listed}");
    }
    let shown = &dead(flow, 0, "show", &[exhausted]).await?["letters"][0];
    let [first, second] = flow.system.retry_delays_ms();
    let tries: Vec<_> =
        (0..2).map(|at| (shown["history"][at]["what"].clone(), shown["history"][at]["delay_ms"].clone())).collect();
    ensure!(tries == [(json!("retried"), json!(first)), (json!("retried"), json!(second))], "{shown}");
    ensure!(shown["history"][0]["detail"].as_str().is_some_and(|detail| detail.contains("503")), "{shown}");
    ensure!(shown["exchange"] == "orders" && shown["routing_key"] == "order.created" && shown["upstream"] == "shop", "{shown}");
    ensure!(shown["died_by"] == "downstream" && shown["died_at"] != "" && shown.get("body").is_none(), "{shown}");
    let revealed = dead(flow, 0, "show", &[rejected, "--body", "--by", "ann"]).await?;
    ensure!(revealed["letters"][0]["body"] == "{\"order\":0}", "{revealed}");
    ensure!(flow.system.log_of(Which::Callback)?.contains("asks for the body"), "who looked at a body is not logged");
    let told = expect(flow, 0, &["audit", "--act", "reveal_dead_letters"]).await?;
    let row = &told["acts"][0];
    ensure!(row["about"] == *rejected && row["by"] == "ann" && row["result"] == "done" && row["detail"] == "1 shown", "{told}");
    Ok(())
}

async fn a_dry_run_changes_nothing(flow: &Flow) -> anyhow::Result<()> {
    let before = dead(flow, 0, "list", &[]).await?;
    let calls = flow.system.effects().await?.calls;
    let would = dead(flow, 1, "redrive", &["--all", "--dry-run"]).await?;
    ensure!(would["redriven"] == 0 && would["selected"] == 3 && would["dry_run"] == true, "{would}");
    let would = dead(flow, 0, "discard", &["--all", "--dry-run", "--because", "to see"]).await?;
    ensure!(would["discarded"] == 0 && would["selected"] == 5, "{would}");
    ensure!(dead(flow, 0, "list", &[]).await? == before, "a dry run has changed the queue");
    ensure!(flow.system.effects().await?.calls == calls, "a dry run had a message handled");
    Ok(())
}

async fn they_are_redriven(flow: &Flow, [rejected, exhausted, poison, known]: &[String; 4]) -> anyhow::Result<()> {
    let done = dead(flow, 0, "redrive", &["--reason", "rejected,retries_exhausted,poison", "--because", "mended"]).await?;
    ensure!(done["redriven"] == 3, "{done}");
    for id in [rejected, exhausted, poison] {
        delivery_is(flow, id, "done", "", 1).await?;
    }
    let all = [rejected, exhausted, poison, known].map(Clone::clone);
    flow.each_effected_once(&all).await?;
    // The forged one is another content under a known id; what cannot be read is not sent at all.
    let calls = flow.system.effects().await?.calls;
    let old = dead(flow, 1, "redrive", &["--id", known]).await?;
    let said = old["results"][0]["detail"].as_str().unwrap_or_default();
    ensure!(old["redriven"] == 0 && said.contains("another content"), "{old}");
    delivery_is(flow, known, "done", "", 0).await?;
    let unread = dead(flow, 1, "redrive", &["--reason", "undecodable"]).await?;
    let said = unread["results"][0]["detail"].as_str().unwrap_or_default();
    ensure!(unread["results"][0]["result"] == "refused" && said.contains("cannot be read"), "{unread}");
    ensure!(flow.system.effects().await?.calls == calls, "what must not be handled reached the handler");
    flow.dead_letters_reach(SUBSCRIPTION, 2).await
}

async fn the_rest_is_discarded(flow: Flow, [.., known]: &[String; 4]) -> anyhow::Result<()> {
    flow.system.behave(&json!({"status": 422})).await?;
    let parked = flow.send(9, 1).await?.remove(0);
    delivery_is(&flow, &parked, "parked", "rejected", 0).await?;
    flow.dead_letters_reach(SUBSCRIPTION, 3).await?;
    let one = dead(
        &flow,
        1,
        "discard",
        &["--id", &format!("{parked},{}", "019abcde-0000-7000-8000-00000000ffff"), "--because", "a test order"],
    )
    .await?;
    ensure!(one["discarded"] == 1 && one["not_found"].as_array().is_some_and(|missing| missing.len() == 1), "{one}");
    ensure!(one["note"].as_str().is_some_and(|note| note.contains("stay parked")), "{one}");
    let rest = dead(&flow, 0, "discard", &["--all", "--because", "nobody needs them"]).await?;
    ensure!(rest["discarded"] == 2, "{rest}");
    flow.dead_letters_reach(SUBSCRIPTION, 0).await?;
    ensure!(reasons(&dead(&flow, 0, "list", &["--state", "discarded"]).await?).len() == 3, "they are kept as discarded");
    ensure!(delivery(&flow, &parked).await?.0 == "parked" && delivery(&flow, known).await?.0 == "done", "a delivery has changed");
    let log = flow.system.log_of(Which::Callback)?;
    let told =
        log.lines().any(|line| line.contains("discard_dead_letter") && line.contains(&parked) && line.contains("a test order"));
    ensure!(told && !log.contains("{\\\"order\\\":9}"), "the discard is not logged as it should be");
    let expected = [
        ("reveal", "done"),
        ("redrive", "done"),
        ("redrive", "refused"),
        ("redrive", "refused"),
        ("discard", "done"),
        ("discard", "done"),
    ];
    audit_has(&flow, &expected).await?;
    let audit = expect(&flow, 0, &["audit", "--act", "discard_dead_letters", "--limit", "1"]).await?;
    let last = &audit["acts"][0];
    ensure!(last["about"] == "all" && last["subscription"] == SUBSCRIPTION && last["reason"] == "nobody needs them", "{last}");
    ensure!(last["detail"] == "2 discarded, 0 not" && last["ended_at"] != "" && last["by"] != "", "{last}");
    let acts = flow.system.metric(Which::Callback, "countersign_operator_acts_total").await?;
    ensure!(acts >= 7.0, "{acts} acts were counted");
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_named() -> anyhow::Result<()> {
    let mut flow = Flow::new("dead_bad_input", SETUP).await?;
    let away = dead(&flow, 3, "list", &[]).await?;
    ensure!(away.as_str().is_some_and(|said| said.contains("callback") && said.contains("--callback")), "{away}");
    flow.start(&[Which::Callback]).await?;
    let wrong: [(&[&str], &str); 13] = [
        (&["list"], "--subscription"),
        (&["list", "--subscription", "nobody"], SUBSCRIPTION),
        (&["list", "--subscription", SUBSCRIPTION, "--reason", "sadness"], "retries_exhausted"),
        (&["list", "--subscription", SUBSCRIPTION, "--id", "17"], "UUID"),
        (&["list", "--subscription", SUBSCRIPTION, "--before", "yesterday"], "2h"),
        (&["show", STRANGER, "--subscription", SUBSCRIPTION], "no letter"),
        (&["redrive", "--subscription", SUBSCRIPTION], "all"),
        (&["redrive", "--subscription", SUBSCRIPTION, "--all", "--rate", "0"], "rate"),
        (&["redrive", "--quarantine", "--all"], "--quarantine"),
        (&["discard", "--subscription", SUBSCRIPTION, "--all"], "--because"),
        (&["discard", "--subscription", SUBSCRIPTION, "--all", "--because", " "], "reason"),
        (&["discard", "--subscription", SUBSCRIPTION, "--because", "x"], "all"),
        (&["discard", "--subscription", SUBSCRIPTION, "--quarantine", "--all", "--because", "x"], "--quarantine"),
    ];
    for (arguments, hint) in wrong {
        let said = expect(&flow, 2, &[&["dead"][..], arguments].concat()).await?;
        ensure!(said.as_str().is_some_and(|said| said.contains(hint)), "{arguments:?} was told {said}, without {hint}");
    }
    ensure!(dead(&flow, 0, "redrive", &["--all"]).await?["redriven"] == 0, "none is no error");
    audit_has(&flow, &[("redrive", "refused"), ("discard", "refused"), ("discard", "refused"), ("redrive", "done")]).await?;
    flow.finish().await
}

/// Two hundred each of what no downstream and no callback can read; callback is away at first, and they wait in their queue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_can_read_is_taken_in_shown_and_discarded() -> anyhow::Result<()> {
    const EACH: usize = 200;
    let mut flow = Flow::new("dead_quarantine", SETUP).await?;
    flow.start(&[Which::Callback, Which::Downstream]).await?;
    flow.system.stop(Which::Callback).await?;
    for queue in [SUBSCRIPTION, "countersign.receipts", "countersign.checks"] {
        litter(&flow, queue, u32::try_from(EACH)?).await?;
    }
    flow.queue_reaches("countersign.quarantine", u32::try_from(EACH)?).await?;
    flow.start(&[Which::Callback]).await?;
    flow.dead_letters_reach("", 3 * EACH).await?;
    for queue in ["countersign.quarantine", "countersign.receipts", "countersign.checks"] {
        flow.queue_reaches(queue, 0).await?;
    }
    let listed = expect(&flow, 0, &["dead", "list", "--quarantine", "--id", "litter-7"]).await?;
    ensure!(listed["letters"][0]["reason"] == "undecodable" && listed["letters"][0]["body_bytes"] == 33, "{listed}");
    let shown = expect(&flow, 0, &["dead", "show", "litter-7", "--quarantine", "--body"]).await?;
    ensure!(shown["letters"][0]["body"] == "no message 7 for inventory.orders", "{shown}");
    let gone = expect(&flow, 0, &["dead", "discard", "--quarantine", "--all", "--because", "litter"]).await?;
    ensure!(gone["discarded"] == 3 * EACH, "{}", gone["discarded"]);
    flow.dead_letters_reach("", 0).await?;
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_gave_up_on_is_there_with_its_own_route_and_can_be_redriven() -> anyhow::Result<()> {
    let mut flow = Flow::new("dead_limit", SETUP).await?;
    let file = flow.system.topology_file();
    let topology = std::fs::read_to_string(&file)?;
    std::fs::write(&file, topology.replacen("version = 1", "version = 1\ndelivery_limit = 2", 1))?;
    flow.start(&[Which::Callback, Which::Upstream]).await?;
    let id = flow.send(0, 1).await?.remove(0);
    flow.queue_reaches(SUBSCRIPTION, 1).await?;
    let (_connection, channel) = channel(&flow).await?;
    let gives_up = async || {
        while let Ok(Some(got)) = channel.basic_get(SUBSCRIPTION.into(), BasicGetOptions { no_ack: false }).await {
            let back = BasicNackOptions { multiple: false, requeue: true };
            if channel.basic_nack(got.delivery_tag, back).await.is_err() {
                return false;
            }
        }
        flow.ground.queue_depth("inventory.orders.limit").await.is_ok_and(|depth| depth >= 1)
    };
    wait_until("the broker to give up", PATIENCE, gives_up).await?;
    flow.start(&[Which::Downstream]).await?;
    delivery_is(&flow, &id, "parked", "dead_lettered", 0).await?;
    flow.dead_letters_reach(SUBSCRIPTION, 1).await?;
    flow.queue_reaches(DEAD, 0).await?;
    let listed = dead(&flow, 0, "list", &["--reason", "dead_lettered"]).await?;
    let letter = &listed["letters"][0];
    ensure!(letter["exchange"] == "orders" && letter["routing_key"] == "order.created", "{letter}");
    ensure!(letter["detail"].as_str().is_some_and(|detail| detail.contains("delivery_limit")), "{letter}");
    ensure!(dead(&flow, 0, "redrive", &["--id", &id]).await?["redriven"] == 1, "not redriven");
    delivery_is(&flow, &id, "done", "", 1).await?;
    flow.each_effected_once(&[id]).await?;
    flow.finish().await
}
