//! The traces of four messages and of their checks, as a real collector passes them on.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use countersign_flow::spans::{Collector, Seen};
use countersign_flow::{Flow, PATIENCE, Setup, order};
use countersign_launcher::{OtlpCollector, SUBSCRIPTION, Which, wait_until};
use countersign_wire::proto::{NewMessage, SendMessageRequest};
use serde_json::json;

/// In bodies, and in the values of the callers' own headers: no span may hold it.
const PAYLOAD: &str = "canary-4e19";

const DELIVERED: &str = "\
upstream server accept
  upstream producer send orders attempt=1 outcome=confirmed
    downstream consumer process inventory.orders attempt=1 outcome=done
      downstream internal handle
      downstream producer acknowledge countersign.receipts attempt=1 outcome=done
        callback consumer record countersign.receipts attempt=1 outcome=done
    upstream producer schedule_check countersign.checks.1000 attempt=1
";
const DELIVERED_CHECKS: &str = "\
callback consumer check countersign.checks attempt=1 verdict=verified
";
const TWICE: &str = "\
upstream server accept
  upstream producer send orders attempt=1 outcome=confirmed
    downstream consumer process inventory.orders attempt=1 outcome=done
      downstream internal handle
      downstream producer acknowledge countersign.receipts attempt=1 outcome=done
        callback consumer record countersign.receipts attempt=1 outcome=done
    upstream producer resend inventory.orders attempt=1 outcome=resent
      downstream consumer process inventory.orders attempt=1 outcome=done_before
        downstream producer acknowledge countersign.receipts attempt=1 outcome=done
          callback consumer record countersign.receipts attempt=1 outcome=done
      upstream producer schedule_check countersign.checks.1000 attempt=1
    upstream producer schedule_check countersign.checks.1000 attempt=1
";
const LOST: &str = "\
upstream server accept
  upstream producer send orders attempt=1 outcome=confirmed
    upstream producer resend inventory.orders attempt=2 outcome=resent
      downstream consumer process inventory.orders attempt=2 outcome=done
        downstream internal handle
        downstream producer acknowledge countersign.receipts attempt=2 outcome=done
          callback consumer record countersign.receipts attempt=2 outcome=done
      upstream producer schedule_check countersign.checks.1000 attempt=2
    upstream producer schedule_check countersign.checks.1000 attempt=1
";
const LOST_CHECKS: &str = "\
callback consumer check countersign.checks attempt=1 verdict=resend reason=lost
  callback client command_resend shop attempt=2
callback consumer check countersign.checks attempt=2 verdict=verified
";
const REFUSED: &str = "\
upstream server accept
  upstream producer send orders attempt=1 outcome=confirmed
    downstream consumer process inventory.orders attempt=1 outcome=failed reason=rejected !rejected
      downstream internal handle !reject
      downstream producer acknowledge countersign.receipts attempt=1 outcome=failed reason=rejected
        callback consumer record countersign.receipts attempt=1 outcome=failed reason=rejected
    upstream producer schedule_check countersign.checks.1000 attempt=1
";
const REFUSED_CHECKS: &str = "\
callback consumer check countersign.checks attempt=1 verdict=park reason=rejected
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_gets_the_whole_story_of_each_message_and_no_payload() -> anyhow::Result<()> {
    let (seen, onward) = Collector::start().await?;
    let dir = tempfile::tempdir()?;
    let collector = OtlpCollector::start(dir.path(), &onward).await?;
    let setup = Setup { postgres: false, max_batch: 256 };
    let mut flow = Flow::with_traces("traces_stories", setup, Some(collector.url())).await?;
    flow.start(&[Which::Callback, Which::Upstream]).await?;
    let lost = send(&flow, 0).await?;
    flow.queue_reaches(SUBSCRIPTION, 1).await?;
    flow.ground.purge(SUBSCRIPTION).await?;
    let (delivered, twice, refused) = (send(&flow, 1).await?, send(&flow, 2).await?, send(&flow, 3).await?);
    flow.system.behave(&json!({"status": 422, "only_key": refused})).await?;
    flow.start(&[Which::Downstream]).await?;
    flow.all_signed(&[lost.clone(), delivered.clone(), twice.clone()]).await?;
    flow.all_in_state(std::slice::from_ref(&refused), "parked").await?;
    flow.send_again(std::slice::from_ref(&twice)).await?;

    for (id, own, checks) in [
        (&delivered, DELIVERED, DELIVERED_CHECKS),
        (&twice, TWICE, DELIVERED_CHECKS),
        (&lost, LOST, LOST_CHECKS),
        (&refused, REFUSED, REFUSED_CHECKS),
    ] {
        let told =
            async || seen.trace_of(id).is_ok_and(|told| told == own) && seen.checks_of(id).is_ok_and(|told| told == checks);
        if wait_until("the traces to be whole", PATIENCE, told).await.is_err() {
            let (got, got_checks) = (seen.trace_of(id)?, seen.checks_of(id)?);
            anyhow::bail!("expected\n{own}and checks\n{checks}but got\n{got}and checks\n{got_checks}");
        }
    }
    let spans = seen.spans();
    links_lead_to_the_publish(&spans, &delivered, &lost)?;
    attributes_follow_the_conventions(&spans, &delivered, &lost)?;
    resources_tell_the_processes_apart(&spans)?;
    ensure!(!format!("{spans:?}").contains(PAYLOAD), "a span holds a payload");
    flow.finish().await
}

/// One message in a call of its own, and so in a trace of its own.
async fn send(flow: &Flow, number: u32) -> anyhow::Result<String> {
    let message = NewMessage {
        body: format!("{{\"order\":{number},\"note\":{PAYLOAD:?}}}").into(),
        headers: [("x-note".to_owned(), PAYLOAD.to_owned())].into(),
        ..order(number)
    };
    let answer = flow.upstream().await?.send_message(SendMessageRequest { message: Some(message) }).await?;
    Ok(answer.into_inner().accepted.context("neither accepted nor refused")?.id)
}

/// The one span of this message that is of this step.
fn of_step<'a>(spans: &'a [Seen], id: &str, step: &str) -> anyhow::Result<&'a Seen> {
    let is_it = |span: &&Seen| span.is_step(step) && span.text("messaging.message.id").as_deref() == Some(id);
    spans.iter().find(is_it).with_context(|| format!("no span of step {step} about {id}"))
}

fn links_lead_to_the_publish(spans: &[Seen], delivered: &str, lost: &str) -> anyhow::Result<()> {
    let place = |span: &Seen| (span.trace_id().to_vec(), span.span_id().to_vec());
    let (send, check) = (of_step(spans, delivered, "1")?, of_step(spans, delivered, "6")?);
    ensure!(check.links() == [place(send)], "the check is linked to {:?}", check.links());
    ensure!(check.parent_id().is_empty() && check.trace_id() != send.trace_id(), "the check is no trace of its own");
    let (send, command, resend) = (of_step(spans, lost, "1")?, of_step(spans, lost, "7a")?, of_step(spans, lost, "7b")?);
    ensure!(command.links() == [place(send)], "the order is linked to {:?}", command.links());
    ensure!(resend.links() == [place(send), place(command)], "the resend is linked to {:?}", resend.links());
    ensure!(resend.parent_id() == send.span_id() && resend.trace_id() == send.trace_id());
    let second = |span: &&Seen| span.is_step("6") && span.int("countersign.attempt") == Some(2);
    let second = spans.iter().find(second).context("no check of the second try")?;
    ensure!(second.links() == [place(resend)], "the second check is linked to {:?}", second.links());
    let probed = spans.iter().any(|span| span.name() == "probe inventory.orders" && span.int("countersign.probe") == Some(1));
    ensure!(probed, "no span of a probe");
    Ok(())
}

fn attributes_follow_the_conventions(spans: &[Seen], delivered: &str, lost: &str) -> anyhow::Result<()> {
    let table = [
        // message, step, type of operation, destination, its own words
        (delivered, "1", "send", "orders", "send"),
        (delivered, "2", "send", "countersign.checks.1000", "schedule_check"),
        (delivered, "3", "process", "orders", "process"),
        (delivered, "4", "send", "countersign.receipts", "acknowledge"),
        (delivered, "5", "process", "countersign.receipts", "record"),
        (delivered, "6", "process", "countersign.checks", "check"),
        (lost, "7b", "send", "inventory.orders", "resend"),
    ];
    for (id, step, kind, destination, name) in table {
        let span = of_step(spans, id, step)?;
        let told =
            ["system", "operation.type", "destination.name", "operation.name"].map(|key| span.text(&format!("messaging.{key}")));
        let wanted = ["rabbitmq", kind, destination, name].map(|word| Some(word.to_owned()));
        ensure!(told == wanted, "step {step} tells {told:?}");
    }
    let (send, process) = (of_step(spans, delivered, "1")?, of_step(spans, delivered, "3")?);
    for span in [send, process] {
        let key = span.text("messaging.rabbitmq.destination.routing_key");
        ensure!(key.as_deref() == Some("order.created"), "{key:?}");
        let size = span.int("messaging.message.body.size");
        ensure!(size == i64::try_from(format!("{{\"order\":1,\"note\":{PAYLOAD:?}}}").len()).ok(), "{size:?}");
    }
    ensure!(process.text("messaging.destination.subscription.name").as_deref() == Some(SUBSCRIPTION));
    ensure!(process.text("countersign.upstream").as_deref() == Some("shop"));
    ensure!(of_step(spans, delivered, "2")?.int("messaging.batch.message_count").is_some_and(|count| count >= 1));
    Ok(())
}

fn resources_tell_the_processes_apart(spans: &[Seen]) -> anyhow::Result<()> {
    let of = |key: &str| spans.iter().map(|span| span.of_resource(key).unwrap_or_default()).collect::<BTreeSet<_>>();
    let services = of("service.name");
    ensure!(services.iter().eq(["countersign-callback", "countersign-downstream", "countersign-upstream"]), "{services:?}");
    let (instances, versions) = (of("service.instance.id"), of("service.version"));
    ensure!(instances.len() == 3 && instances.iter().all(|id| id.len() == 36), "{instances:?}");
    ensure!(versions.iter().eq([env!("CARGO_PKG_VERSION")]), "{versions:?}");
    Ok(())
}
