//! Upstreams over gRPC.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use countersign_boot::Client;
use countersign_delivery::UpstreamName;
use countersign_telemetry::propagate;
use countersign_wire::proto::upstream_service_client::UpstreamServiceClient;
use countersign_wire::proto::{self, ResendState};
use tonic::metadata::MetadataValue;

use super::addresses::Addresses;
use super::channels::Channels;
use super::{Answer, CallError, ResendOrder, Upstreams};

/// Calls upstreams by the addresses of the configuration.
#[derive(Debug)]
pub struct GrpcUpstreams {
    addresses: Addresses,
    channels: Channels,
}

impl GrpcUpstreams {
    /// `deadline` bounds each call, its connection included.
    #[must_use]
    pub fn new(addresses: Addresses, deadline: Duration, client: &Client) -> Self {
        Self { addresses, channels: Channels::new(deadline, client) }
    }
}

#[async_trait]
impl Upstreams for GrpcUpstreams {
    async fn resend(&self, upstream: &UpstreamName, orders: &[ResendOrder]) -> Result<Vec<Answer>, CallError> {
        let address = self.addresses.of(upstream).ok_or_else(|| CallError::NoAddress(upstream.clone()))?;
        let failed = |code, words| CallError::Failed { upstream: upstream.clone(), address: address.clone(), code, words };
        let channel = self.channels.to(&address).map_err(|error| failed(tonic::Code::InvalidArgument, error.to_string()))?;
        let request = proto::ResendMessagesRequest { orders: orders.iter().map(to_wire).collect() };
        let call = async { UpstreamServiceClient::new(channel).resend_messages(traced(request)).await };
        let response = tokio::time::timeout(self.channels.deadline(), call)
            .await
            .map_err(|_| CallError::TooLate { upstream: upstream.clone(), deadline_ms: self.channels.deadline_ms() })?
            .map_err(|status| failed(status.code(), status.message().to_owned()))?
            .into_inner();
        let answers: Option<Vec<Answer>> = response.results.iter().map(from_wire).collect();
        let nonsense = CallError::Nonsense { upstream: upstream.clone(), orders: orders.len(), answers: response.results.len() };
        answers.filter(|answers| answers.len() == orders.len()).ok_or(nonsense)
    }
}

/// The call carries the current trace, so that upstream's own spans become its children.
pub(super) fn traced<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    if let Some((traceparent, tracestate)) = propagate::current() {
        let entries = [("traceparent", Some(traceparent)), ("tracestate", tracestate)];
        for (key, value) in entries {
            if let Some(value) = value.and_then(|text| MetadataValue::try_from(text).ok()) {
                request.metadata_mut().insert(key, value);
            }
        }
    }
    request
}

fn to_wire(order: &ResendOrder) -> proto::ResendOrder {
    proto::ResendOrder {
        message_id: Bytes::copy_from_slice(order.message_id.uuid().as_bytes()),
        attempt: Some(proto::Attempt { epoch: order.attempt.epoch, number: order.attempt.number }),
        subscriptions: order.subscriptions.iter().map(ToString::to_string).collect(),
        fingerprint: Bytes::copy_from_slice(order.fingerprint.as_bytes()),
        effect_epoch: order.effect_epoch,
    }
}

fn from_wire(result: &proto::ResendResult) -> Option<Answer> {
    match result.state() {
        ResendState::Unspecified => None,
        ResendState::Resent => Some(Answer::Resent),
        ResendState::NotConfirmed => Some(Answer::NotConfirmed),
        ResendState::UnknownId => Some(Answer::UnknownId),
        ResendState::Changed => Some(Answer::Changed),
        ResendState::Gone => Some(Answer::Gone),
    }
}
