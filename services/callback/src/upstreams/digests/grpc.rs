//! Upstreams' books over gRPC.

use std::time::Duration;

use async_trait::async_trait;
use countersign_boot::Client;
use countersign_boot::client::Authorized;
use countersign_delivery::digest::Digest;
use countersign_delivery::reconcile::{Sums, Window};
use countersign_delivery::{Fingerprint, MessageId, SubscriptionName, Timestamp, UpstreamName};
use countersign_wire::proto;
use countersign_wire::proto::digest_service_client::DigestServiceClient;
use tonic::{Response, Status};

use super::{DigestError, Digests, MAX_PAGE, Stored, StoredPage, StoredSums};
use crate::upstreams::channels::Channels;
use crate::upstreams::grpc::traced;

/// An answer at most: a full page with long fingerprints, or an hour of a thousand subscriptions.
const ANSWER_MAX: usize = 16 * 1024 * 1024;

/// Calls upstreams' `DigestService`.
#[derive(Debug)]
pub struct GrpcDigests {
    channels: Channels,
}

impl GrpcDigests {
    /// `deadline` bounds each call, its connection included.
    #[must_use]
    pub fn new(deadline: Duration, client: &Client) -> Self {
        Self { channels: Channels::new(deadline, client) }
    }

    fn client(&self, address: &str) -> Result<DigestServiceClient<Authorized>, DigestError> {
        let channel = self.channels.to(address).map_err(|error| DigestError::Failed {
            address: address.to_owned(),
            code: tonic::Code::InvalidArgument,
            words: error.to_string(),
        })?;
        Ok(DigestServiceClient::new(channel).max_decoding_message_size(ANSWER_MAX))
    }

    /// Waits for an answer, at most for the deadline.
    async fn answer<T>(&self, address: &str, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, DigestError> {
        let address = || address.to_owned();
        match tokio::time::timeout(self.channels.deadline(), call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => {
                Err(DigestError::Failed { address: address(), code: status.code(), words: status.message().to_owned() })
            }
            Err(_) => Err(DigestError::TooLate { address: address(), deadline_ms: self.channels.deadline_ms() }),
        }
    }
}

#[async_trait]
impl Digests for GrpcDigests {
    async fn sums(&self, address: &str, window: Window) -> Result<StoredSums, DigestError> {
        let (from_ms, until_ms) = (window.since.as_millis(), window.until.as_millis());
        let mut client = self.client(address)?;
        let call = client.get_digest(traced(proto::GetDigestRequest { from_ms, until_ms }));
        let answer = self.answer(address, call).await?;
        sums(&answer).map_err(|what| DigestError::Nonsense { address: address.to_owned(), what })
    }

    async fn list(
        &self,
        address: &str,
        window: Window,
        subscription: &SubscriptionName,
        page_token: String,
    ) -> Result<StoredPage, DigestError> {
        let request = proto::ListStoredRequest {
            from_ms: window.since.as_millis(),
            until_ms: window.until.as_millis(),
            subscription: subscription.to_string(),
            page_size: MAX_PAGE,
            page_token,
        };
        let mut client = self.client(address)?;
        let call = client.list_stored(traced(request));
        let answer = self.answer(address, call).await?;
        page(answer).map_err(|what| DigestError::Nonsense { address: address.to_owned(), what })
    }
}

fn sums(answer: &proto::GetDigestResponse) -> Result<StoredSums, String> {
    let mut sums = Sums::new();
    for minute in &answer.minutes {
        let subscription = SubscriptionName::new(&minute.subscription).map_err(|error| error.to_string())?;
        let hash = minute.hash.as_ref().try_into().map_err(|_| format!("a hash of {} bytes", minute.hash.len()))?;
        let digest = Digest::from_parts(minute.count, hash);
        sums.entry(subscription).or_default().insert(Timestamp::from_millis(minute.minute_ms), digest);
    }
    Ok(StoredSums {
        upstream: UpstreamName::new(&answer.upstream).map_err(|error| error.to_string())?,
        settled_until: Timestamp::from_millis(answer.settled_until_ms),
        kept_from: (answer.kept_from_ms != 0).then(|| Timestamp::from_millis(answer.kept_from_ms)),
        sums,
    })
}

fn page(answer: proto::ListStoredResponse) -> Result<StoredPage, String> {
    let stored = |one: &proto::Stored| {
        Ok(Stored {
            message_id: MessageId::from_bytes(&one.message_id).map_err(|error| error.to_string())?,
            fingerprint: Fingerprint::new(one.fingerprint.to_vec()).map_err(|error| error.to_string())?,
            sent_at: Timestamp::from_millis(one.sent_at_ms),
        })
    };
    let messages = answer.messages.iter().map(stored).collect::<Result<_, String>>()?;
    Ok(StoredPage { messages, next_page_token: answer.next_page_token })
}
