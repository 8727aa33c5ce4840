//! What a caller may get wrong. Nothing of it is stored, and what is right goes its way.

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, Setup, order};
use countersign_launcher::Which;
use countersign_wire::proto::get_message_request::By;
use countersign_wire::proto::send_result::Result as Sent;
use countersign_wire::proto::{
    GetDeliveryRequest, GetMessageRequest, GetOutlookRequest, NewMessage, SendMessageRequest, SendMessagesRequest,
};
use tonic::{Code, Status};

use crate::command::countersign;

const SETUP: Setup = Setup { postgres: false, max_batch: 256 };
const MIB: usize = 1024 * 1024;

/// Asserts the code of a refusal and the words in it.
fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, words: &[&str]) -> anyhow::Result<()> {
    let status = answer.err().with_context(|| format!("was accepted instead of {code:?} with {words:?}"))?;
    let said = status.message();
    ensure!(status.code() == code && words.iter().all(|word| said.contains(word)), "expected {code:?} {words:?}: {status:?}");
    Ok(())
}

/// A message that cannot be accepted, and how that is answered.
fn wrong_messages() -> Vec<(NewMessage, Code, Vec<&'static str>)> {
    let right = || order(1);
    vec![
        (
            NewMessage { exchange: "nowhere".into(), ..right() },
            Code::FailedPrecondition,
            vec!["nowhere", "order.created", "topology file"],
        ),
        (NewMessage { routing_key: "invoice.paid".into(), ..right() }, Code::FailedPrecondition, vec!["orders", "invoice.paid"]),
        (NewMessage { body: Vec::new().into(), ..right() }, Code::InvalidArgument, vec!["body is empty", "1 byte"]),
        (
            NewMessage { body: vec![b'x'; MIB + 1].into(), ..right() },
            Code::InvalidArgument,
            vec!["1048577", "1048576", "max_body_bytes"],
        ),
        // Above what any configuration allows, and still our own word rather than the transport's.
        (
            NewMessage { body: vec![b'x'; 16 * MIB].into(), ..right() },
            Code::InvalidArgument,
            vec!["16777216", "1048576", "max_body_bytes"],
        ),
        (NewMessage { r#type: String::new(), ..right() }, Code::InvalidArgument, vec!["type is empty"]),
        (NewMessage { idempotency_key: "k".repeat(300), ..right() }, Code::InvalidArgument, vec!["idempotency key"]),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_accepted_is_answered_by_code_and_words_and_leaves_nothing() -> anyhow::Result<()> {
    let mut flow = Flow::new("bad_requests", SETUP).await?;
    flow.start(&Which::ALL).await?;
    let mut upstream = flow.upstream().await?.max_encoding_message_size(64 * MIB);
    for (message, code, words) in wrong_messages() {
        refused(upstream.send_message(SendMessageRequest { message: Some(message) }).await, code, &words)?;
    }
    refused(upstream.send_message(SendMessageRequest { message: None }).await, Code::InvalidArgument, &["message is missing"])?;
    let many = (0..501).map(order).collect();
    let answer = upstream.send_messages(SendMessagesRequest { messages: many }).await;
    refused(answer, Code::InvalidArgument, &["501", "500"])?;
    let large = (0..5).map(|number| NewMessage { body: vec![b'x'; MIB].into(), ..order(number) }).collect();
    let answer = upstream.send_messages(SendMessagesRequest { messages: large }).await;
    refused(answer, Code::InvalidArgument, &["the batch has 52", "4194304", "split it"])?;
    refused(upstream.send_messages(SendMessagesRequest { messages: vec![] }).await, Code::InvalidArgument, &["0", "500"])?;
    ensure!(upstream.get_message(by_key("order-1")).await.is_err_and(|status| status.code() == Code::NotFound), "it was stored");
    // The key that only wrong messages have carried is free for the right one.
    let ids = flow.send(1, 1).await?;
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    flow.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_message_of_a_batch_does_not_take_the_others_with_it() -> anyhow::Result<()> {
    let mut flow = Flow::new("bad_batch", SETUP).await?;
    flow.start(&Which::ALL).await?;
    let messages = vec![order(1), NewMessage { exchange: "nowhere".into(), ..order(2) }, order(3)];
    let answer = flow.upstream().await?.send_messages(SendMessagesRequest { messages }).await?.into_inner();
    let mut ids = Vec::new();
    let mut refusals = Vec::new();
    for result in answer.results {
        match result.result {
            Some(Sent::Accepted(accepted)) => ids.push(accepted.id),
            Some(Sent::Refused(refusal)) => refusals.push(refusal),
            None => refusals.push(countersign_wire::proto::Refused::default()),
        }
    }
    ensure!(ids.len() == 2 && refusals.len() == 1, "{ids:?} {refusals:?}");
    let Some(refusal) = refusals.first() else { anyhow::bail!("no refusal") };
    ensure!(refusal.code == i32::from(Code::FailedPrecondition) && refusal.message.contains("nowhere"), "{refusal:?}");
    flow.all_signed(&ids).await?;
    flow.each_effected_once(&ids).await?;
    flow.finish().await
}

fn by_key(key: &str) -> GetMessageRequest {
    GetMessageRequest { by: Some(By::IdempotencyKey(key.to_owned())), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_id_is_answered_with_what_an_id_is() -> anyhow::Result<()> {
    let mut flow = Flow::new("bad_ids", SETUP).await?;
    flow.start(&Which::ALL).await?;
    let (mut upstream, mut callback) = (flow.upstream().await?, flow.callback().await?);
    for id in ["", "no-uuid", "4f3c0f0e-7f5a-4c5e-9a2b-1d2c3b4a5f6e"] {
        let by_id = GetMessageRequest { by: Some(By::Id(id.into())), ..Default::default() };
        refused(upstream.get_message(by_id).await, Code::InvalidArgument, &["UUID of version 7"])?;
        let request = GetDeliveryRequest { message_id: id.into() };
        refused(callback.get_delivery(request).await, Code::InvalidArgument, &["UUID of version 7"])?;
        for verb in ["get", "resend", "why"] {
            let output = countersign(&flow, &[verb, id]).await?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.code() == Some(2) && said.contains("UUID of version 7"), "{verb} {id:?}: {output:?}");
        }
    }
    refused(upstream.get_message(GetMessageRequest::default()).await, Code::InvalidArgument, &["id", "idempotency_key"])?;
    let request = GetOutlookRequest { subscriptions: vec!["no spaces allowed".into()] };
    refused(callback.get_outlook(request).await, Code::InvalidArgument, &["subscriptions", "no spaces allowed"])?;
    let request = GetOutlookRequest { subscriptions: vec!["a".into(); 1_001] };
    refused(callback.get_outlook(request).await, Code::InvalidArgument, &["1001", "1000"])?;
    flow.finish().await
}
