//! `countersign why`: what happened to a message, and what will happen next, in plain words.
//!
//! Gathers what upstream and callback know ([`Known`]), has one pure function tell the story ([`explain`](fn@explain)), prints it. A service that is
//! away leaves a gap in the story, not an error: the rest is told, and the exit code says that something is missing.

mod explain;
mod known;
mod next;
pub mod outbox;
mod parked;
mod span;
mod waiting;

use std::time::SystemTime;

use clap::Args;
use countersign_delivery::MessageId;
use countersign_wire::proto::get_message_request::By;
use countersign_wire::proto::{Delivery, GetDeliveryRequest, GetMessageRequest, GetMessageResponse, GetOutlookRequest};
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::exit::{Done, in_words, is_away};
use crate::target::Target;
use crate::{client, output};
use explain::{Story, explain};
use known::{Answer, Known};

#[derive(Args)]
pub struct WhyArgs {
    /// The message's id.
    #[arg(required_unless_present = "key")]
    id: Option<String>,
    /// Find it by the caller's idempotency key instead.
    #[arg(long, conflicts_with = "id")]
    key: Option<String>,
}

pub async fn run(target: &Target, args: WhyArgs) -> anyhow::Result<Done> {
    let (id, message) = match (args.id, args.key) {
        (Some(id), _) => {
            let id = MessageId::parse(&id)?.to_string();
            let message = ask_upstream(target, By::Id(id.clone())).await?;
            (id, message)
        }
        (None, key) => {
            let request = GetMessageRequest { by: Some(By::IdempotencyKey(key.unwrap_or_default())), ..Default::default() };
            let message = client::upstream(target).await?.get_message(request).await?.into_inner();
            (message.id.clone(), Answer::Got(message))
        }
    };
    let known = gather(target, id, message).await?;
    let story = explain(&known);
    output::print(target.output, &as_json(&story), || as_text(&story, known.now_ms()));
    Ok(if story.away.is_empty() { Done::All } else { Done::Away })
}

/// Asks callback for what upstream cannot know.
async fn gather(target: &Target, id: String, message: Answer<GetMessageResponse>) -> anyhow::Result<Known> {
    let deliveries = ask_callback(target, &id).await?;
    let required = message.got().map(|message| message.required.clone()).unwrap_or_default();
    let signed = deliveries.got().into_iter().flatten().map(|delivery| delivery.subscription.clone());
    let mut subscriptions: Vec<String> = required.into_iter().chain(signed).collect();
    subscriptions.sort_unstable();
    subscriptions.dedup();
    let outlook = match &deliveries {
        Answer::Away(_) => Answer::Unknown,
        _ => match client::callback(target).await {
            Ok(mut callback) => answer("callback", callback.get_outlook(GetOutlookRequest { subscriptions }).await)?,
            Err(error) => away("callback", error)?,
        },
    };
    Ok(Known { id, message, deliveries, outlook, local_now_ms: local_now_ms() })
}

async fn ask_upstream(target: &Target, by: By) -> anyhow::Result<Answer<GetMessageResponse>> {
    match client::upstream(target).await {
        Ok(mut upstream) => {
            answer("upstream", upstream.get_message(GetMessageRequest { by: Some(by), ..Default::default() }).await)
        }
        Err(error) => away("upstream", error),
    }
}

async fn ask_callback(target: &Target, id: &str) -> anyhow::Result<Answer<Vec<Delivery>>> {
    match client::callback(target).await {
        Ok(mut callback) => {
            let found = answer("callback", callback.get_delivery(GetDeliveryRequest { message_id: id.to_owned() }).await)?;
            Ok(match found {
                Answer::Got(answer) => Answer::Got(answer.deliveries),
                Answer::Unknown => Answer::Unknown,
                Answer::Away(why) => Answer::Away(why),
            })
        }
        Err(error) => away("callback", error),
    }
}

/// An answer, or why there is none.
///
/// # Errors
/// When the question itself was refused.
fn answer<T>(service: &str, answered: Result<tonic::Response<T>, Status>) -> anyhow::Result<Answer<T>> {
    match answered {
        Ok(answer) => Ok(Answer::Got(answer.into_inner())),
        // An older service does not know the question: it cannot tell, and nothing is wrong with it.
        Err(status) if matches!(status.code(), Code::NotFound | Code::Unimplemented) => Ok(Answer::Unknown),
        Err(status) if matches!(status.code(), Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated) => {
            Err(status.into())
        }
        Err(status) => Ok(Answer::Away(format!("{service} cannot tell: {}", in_words(&status.into())))),
    }
}

fn away<T>(service: &str, error: anyhow::Error) -> anyhow::Result<Answer<T>> {
    if is_away(&error) { Ok(Answer::Away(format!("{:#}", error.context(format!("{service} is away"))))) } else { Err(error) }
}

#[allow(clippy::disallowed_methods, reason = "the command has no launch frame; used only when callback's clock cannot be asked")]
fn local_now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn as_json(story: &Story) -> Value {
    let time = |ms: Option<i64>| ms.map(output::time);
    json!({
        "id": story.id,
        "happened": story.happened.iter().map(|one| json!({"at": time(one.at_ms), "what": one.what})).collect::<Vec<_>>(),
        "next": story.next.iter()
            .map(|one| json!({"subscription": one.subscription, "what": one.what, "when": time(one.when_ms)}))
            .collect::<Vec<_>>(),
        "do": story.advice,
        "away": story.away,
    })
}

fn as_text(story: &Story, now_ms: i64) -> String {
    let mut lines = vec![format!("message {}", story.id)];
    let mut part = |head: &str, body: Vec<String>| {
        if !body.is_empty() {
            lines.push(head.to_owned());
            lines.extend(body.into_iter().map(|line| format!("  {line}")));
        }
    };
    let happened = story.happened.iter().map(|one| match one.at_ms {
        Some(at) => format!("{}: {}", span::at(at, now_ms), one.what),
        None => one.what.clone(),
    });
    let next = story.next.iter().map(|one| match &one.subscription {
        Some(subscription) => format!("{subscription}: {}", one.what),
        None => one.what.clone(),
    });
    part("What happened", happened.collect());
    part("What comes next", next.collect());
    part("What you can do", story.advice.clone());
    part("What is missing here", story.away.clone());
    lines.join("\n")
}
