//! What is stored, for callback's reconciliation.

use std::sync::Arc;

use countersign_delivery::ports::stored::StoredRow;
use countersign_delivery::reconcile::Window;
use countersign_delivery::{MessageId, SubscriptionName};
use countersign_wire::proto;
use countersign_wire::proto::digest_service_server::{DigestService, DigestServiceServer};
use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::{Request, Response, Status};

use crate::digest::{self, DigestError, StoredSums};
use crate::grpc::status::{of_port, of_refusal};
use crate::refusal::Refusal;
use crate::upstream::Upstream;

/// Calls at a time: reconciliation shares the database with sends.
const CALLS_MAX: usize = 2;
/// What the next caller is told to wait, milliseconds.
const RETRY_MS: u64 = 1_000;
/// Messages of a page, unless the caller says otherwise.
const PAGE: u32 = 1_000;
/// Most messages of a page.
const MAX_PAGE: u32 = 5_000;

/// The server for one upstream.
pub(crate) fn server(upstream: Upstream) -> DigestServiceServer<Api> {
    DigestServiceServer::new(Api { upstream, calls: Arc::new(Semaphore::new(CALLS_MAX)) })
}

/// The books of one upstream.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    upstream: Upstream,
    calls: Arc<Semaphore>,
}

impl Api {
    fn turn(&self) -> Result<SemaphorePermit<'_>, Status> {
        self.calls.try_acquire().map_err(|_| {
            let what = format!("{CALLS_MAX} calls read what is stored already");
            of_refusal(&Refusal::Exhausted { what, retry_ms: RETRY_MS })
        })
    }
}

#[tonic::async_trait]
impl DigestService for Api {
    async fn get_digest(&self, request: Request<proto::GetDigestRequest>) -> Result<Response<proto::GetDigestResponse>, Status> {
        let proto::GetDigestRequest { from_ms, until_ms } = request.into_inner();
        let window = digest::window(from_ms, until_ms).map_err(Status::invalid_argument)?;
        let _turn = self.turn()?;
        match self.upstream.sums(window).await {
            Ok(sums) => Ok(Response::new(response(&self.upstream, sums))),
            Err(DigestError::Database(error)) => Err(of_port(&error)),
            Err(error @ DigestError::TooMany) => Err(Status::invalid_argument(error.to_string())),
        }
    }

    async fn list_stored(
        &self,
        request: Request<proto::ListStoredRequest>,
    ) -> Result<Response<proto::ListStoredResponse>, Status> {
        let proto::ListStoredRequest { from_ms, until_ms, subscription, page_size, page_token } = request.into_inner();
        let window = digest::window(from_ms, until_ms).map_err(Status::invalid_argument)?;
        let subscription = SubscriptionName::new(&subscription).map_err(|error| Status::invalid_argument(error.to_string()))?;
        if page_size > MAX_PAGE {
            return Err(Status::invalid_argument(format!("page_size is {page_size}; at most {MAX_PAGE} are given")));
        }
        let limit = usize::try_from(if page_size == 0 { PAGE } else { page_size }).unwrap_or(usize::MAX);
        let after = after(&page_token, window)?;
        let _turn = self.turn()?;
        let (rows, next) =
            self.upstream.list_stored(window, &subscription, after, limit).await.map_err(|error| of_port(&error))?;
        let next_page_token = next.map(|id| id.to_string()).unwrap_or_default();
        Ok(Response::new(proto::ListStoredResponse { messages: rows.iter().map(stored).collect(), next_page_token }))
    }
}

/// Where a page begins; none for the empty token.
fn after(token: &str, window: Window) -> Result<Option<MessageId>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let id = MessageId::parse(token).ok().filter(|id| window.contains(id.minted_at()));
    let words = "page_token: not a token of ListStored for this window; give the next_page_token of the page before";
    id.map(Some).ok_or_else(|| Status::invalid_argument(words))
}

fn response(upstream: &Upstream, stored: StoredSums) -> proto::GetDigestResponse {
    let mut minutes = Vec::new();
    for (subscription, of_minutes) in stored.sums {
        minutes.extend(of_minutes.into_iter().map(|(minute, digest)| proto::MinuteDigest {
            subscription: subscription.to_string(),
            minute_ms: minute.as_millis(),
            count: digest.count(),
            hash: digest.hash().to_vec().into(),
        }));
    }
    proto::GetDigestResponse {
        upstream: upstream.name().to_string(),
        settled_until_ms: stored.settled_until.as_millis(),
        // 0 says that nothing is deleted.
        kept_from_ms: stored.kept_from.map_or(0, |at| at.as_millis().max(1)),
        minutes,
    }
}

fn stored(row: &StoredRow) -> proto::Stored {
    proto::Stored {
        message_id: row.id.uuid().as_bytes().to_vec().into(),
        fingerprint: row.fingerprint.as_bytes().to_vec().into(),
        sent_at_ms: row.sent_at.as_millis(),
    }
}

#[cfg(test)]
mod tests;
