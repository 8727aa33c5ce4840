//! Callers who send the whole plan and note the ids they are given.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_delivery::MessageId;
use countersign_flow::PATIENCE;
use countersign_launcher::wait_until;
use countersign_wire::proto::send_result::Result as Sent;
use countersign_wire::proto::upstream_service_client::UpstreamServiceClient;
use countersign_wire::proto::{NewMessage, SendMessagesRequest};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::journal::Journal;
use super::plan::Plan;

/// Messages in one call.
const CALL: u32 = 250;
/// How many messages the callers may be ahead of the handler.
const AHEAD: u64 = 20_000;

/// Sends all of it by four callers, never far ahead of the handler; the ids in the order of the plan's numbers.
pub(super) async fn send(url: &str, plan: &Plan, journal: &Journal, patience: Duration) -> anyhow::Result<Vec<MessageId>> {
    let next = AtomicU32::new(0);
    let call = || call(url, plan, &next, journal, patience);
    let (one, two, three, four) = tokio::try_join!(call(), call(), call(), call())?;
    let mut ids = vec![None; plan.len()];
    for (number, id) in [one, two, three, four].into_iter().flatten() {
        ids[usize::try_from(number)?] = Some(id);
    }
    ids.into_iter().collect::<Option<Vec<_>>>().context("a message was never sent")
}

async fn call(
    url: &str,
    plan: &Plan,
    next: &AtomicU32,
    journal: &Journal,
    patience: Duration,
) -> anyhow::Result<Vec<(u32, MessageId)>> {
    let endpoint = Endpoint::from_shared(url.to_owned())?.timeout(PATIENCE);
    let mut upstream = UpstreamServiceClient::new(endpoint.connect().await?);
    let mut told = Vec::new();
    loop {
        let first = next.fetch_add(CALL, Ordering::Relaxed);
        let messages: Vec<_> = (first..first + CALL).map_while(|number| plan.message(number)).collect();
        if messages.is_empty() {
            return Ok(told);
        }
        let keeps_up = || journal.effects().is_ok_and(|effects| u64::from(first) <= effects + AHEAD);
        wait_until("the handler to keep up", patience, async || keeps_up()).await?;
        told.extend((first..).zip(accepted(&mut upstream, messages).await?));
    }
}

/// Sends these until all are accepted: what is refused for now is sent again under its key.
async fn accepted(upstream: &mut UpstreamServiceClient<Channel>, messages: Vec<NewMessage>) -> anyhow::Result<Vec<MessageId>> {
    let (mut ids, mut last) = (Vec::new(), None);
    let sent = wait_until("a call to be accepted whole", 2 * PATIENCE, async || {
        match upstream.send_messages(SendMessagesRequest { messages: messages.clone() }).await {
            Ok(answer) => {
                let results = answer.into_inner().results.into_iter().map(|result| result.result);
                ids = results
                    .filter_map(|result| if let Some(Sent::Accepted(one)) = result { Some(one.id) } else { None })
                    .collect();
                ids.len() == messages.len()
            }
            Err(status) => {
                let is_final = [Code::InvalidArgument, Code::AlreadyExists].contains(&status.code());
                last = Some(status);
                is_final
            }
        }
    });
    sent.await.with_context(|| format!("{last:?}"))?;
    ensure!(ids.len() == messages.len(), "refused for good: {last:?}");
    ids.iter().map(|id| Ok(MessageId::parse(id)?)).collect()
}
