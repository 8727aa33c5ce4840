//! How the subscriptions of a downstream stand, as it says over gRPC.

use countersign_wire::proto::subscription_service_client::SubscriptionServiceClient;
use countersign_wire::proto::{ListSubscriptionsRequest, SubscriptionStatus};
use tonic::transport::{Channel, Endpoint};

use crate::PATIENCE;

/// A client of the downstream at this address.
///
/// # Errors
/// When it does not answer.
pub async fn subscriptions_at(grpc: &str) -> anyhow::Result<SubscriptionServiceClient<Channel>> {
    Ok(SubscriptionServiceClient::new(Endpoint::from_shared(grpc.to_owned())?.timeout(PATIENCE).connect().await?))
}

/// The subscriptions of the downstream at this address, by name.
///
/// # Errors
/// When it does not answer.
pub async fn standings_at(grpc: &str) -> anyhow::Result<Vec<SubscriptionStatus>> {
    Ok(subscriptions_at(grpc).await?.list_subscriptions(ListSubscriptionsRequest {}).await?.into_inner().subscriptions)
}
