//! Two upstreams on one database, and a caller who turns to the other when one does not answer.

use anyhow::{Context as _, bail, ensure};
use countersign_launcher::{Extras, Which, wait_until};
use countersign_wire::proto::upstream_service_client::UpstreamServiceClient;
use countersign_wire::proto::{Accepted, NewMessage, SendMessageRequest};
use tonic::Code;
use tonic::transport::Channel;

use crate::{Flow, PATIENCE, Setup, order};

impl Flow {
    /// As [`Self::new`], with a second upstream ([`Which::Replica`]) on the same `PostgreSQL` database.
    ///
    /// # Errors
    /// When a server or binary is missing.
    pub async fn with_replica(test: &str, max_batch: u32) -> anyhow::Result<Self> {
        let extras = Extras { replica: true, ..Extras::default() };
        Self::with_extras(test, Setup { postgres: true, max_batch }, extras).await
    }

    /// A client of one of the upstreams.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn upstream_at(&self, which: Which) -> anyhow::Result<UpstreamServiceClient<Channel>> {
        Ok(UpstreamServiceClient::new(self.channel_to(which).await?))
    }

    /// Sends one message to an upstream, and to the other, under the same idempotency key, until one of them answers.
    ///
    /// # Errors
    /// When the message is refused, or has no idempotency key, or neither answers within [`PATIENCE`].
    pub async fn send_to_either(&self, first: Which, message: NewMessage) -> anyhow::Result<Accepted> {
        ensure!(!message.idempotency_key.is_empty(), "without an idempotency key a second try may be a second message");
        let mut turns = [Which::Upstream, Which::Replica].into_iter().cycle().skip_while(|which| *which != first);
        let mut answer = None;
        wait_until("one of the upstreams to answer", PATIENCE, async || {
            let Some(which) = turns.next() else { return false };
            answer = self.try_at(which, message.clone()).await.transpose();
            answer.is_some()
        })
        .await?;
        answer.context("no answer")?
    }

    /// None when it is worth asking elsewhere.
    async fn try_at(&self, which: Which, message: NewMessage) -> anyhow::Result<Option<Accepted>> {
        let Ok(mut upstream) = self.upstream_at(which).await else { return Ok(None) };
        match upstream.send_message(SendMessageRequest { message: Some(message) }).await {
            Ok(answer) => answer.into_inner().accepted.context("an answer without a result").map(Some),
            Err(status) if is_final(status.code()) => bail!("{} refuses it: {status}", which.name()),
            Err(_) => Ok(None),
        }
    }

    /// Sends orders `first..first + count` one by one, in turn to either upstream, each under its own idempotency key; returns their ids.
    ///
    /// # Errors
    /// As [`Self::send_to_either`].
    pub async fn send_in_turn(&self, first: u32, count: u32) -> anyhow::Result<Vec<String>> {
        let mut ids = Vec::new();
        for number in first..first + count {
            let which = Which::UPSTREAMS[number as usize % 2];
            ids.push(self.send_to_either(which, order(number)).await?.id);
        }
        Ok(ids)
    }
}

/// Whether asking again, here or there, would change nothing. A broken connection is told as `INTERNAL` too, so that is not final.
#[must_use]
pub fn is_final(code: Code) -> bool {
    matches!(code, Code::InvalidArgument | Code::AlreadyExists | Code::FailedPrecondition | Code::Unimplemented)
}
