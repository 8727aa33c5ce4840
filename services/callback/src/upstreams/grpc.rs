//! Upstreams over gRPC.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use countersign_delivery::UpstreamName;
use countersign_telemetry::propagate;
use countersign_wire::proto::upstream_service_client::UpstreamServiceClient;
use countersign_wire::proto::{self, ResendState};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};

use super::addresses::Addresses;
use super::{Answer, CallError, ResendOrder, Upstreams};

/// Time to open a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// Silence after which the other side is asked whether it lives.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Connections that are kept, one an address.
const CHANNELS_MAX: usize = 1_000;

/// Calls upstreams by the addresses of the configuration; one connection an address, opened when it is first needed.
#[derive(Debug)]
pub struct GrpcUpstreams {
    addresses: Addresses,
    deadline: Duration,
    channels: Mutex<BTreeMap<String, Channel>>,
}

impl GrpcUpstreams {
    /// `deadline` bounds each call, its connection included.
    #[must_use]
    pub fn new(addresses: Addresses, deadline: Duration) -> Self {
        Self { addresses, deadline, channels: Mutex::default() }
    }

    fn channel(&self, address: &str) -> Result<Channel, tonic::transport::Error> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(address.to_owned())?
            .connect_timeout(CONNECT.min(self.deadline))
            .timeout(self.deadline)
            .http2_keep_alive_interval(KEEPALIVE)
            .tcp_nodelay(true);
        let channel = endpoint.connect_lazy();
        if channels.len() < CHANNELS_MAX {
            channels.insert(address.to_owned(), channel.clone());
        }
        Ok(channel)
    }
}

#[async_trait]
impl Upstreams for GrpcUpstreams {
    async fn resend(&self, upstream: &UpstreamName, orders: &[ResendOrder]) -> Result<Vec<Answer>, CallError> {
        let address = self.addresses.of(upstream).ok_or_else(|| CallError::NoAddress(upstream.clone()))?;
        let failed = |code, words| CallError::Failed { upstream: upstream.clone(), address: address.clone(), code, words };
        let channel = self.channel(&address).map_err(|error| failed(tonic::Code::InvalidArgument, error.to_string()))?;
        let request = proto::ResendMessagesRequest { orders: orders.iter().map(to_wire).collect() };
        let call = async { UpstreamServiceClient::new(channel).resend_messages(traced(request)).await };
        let response = tokio::time::timeout(self.deadline, call)
            .await
            .map_err(|_| CallError::TooLate { upstream: upstream.clone(), deadline_ms: millis(self.deadline) })?
            .map_err(|status| failed(status.code(), status.message().to_owned()))?
            .into_inner();
        let answers: Option<Vec<Answer>> = response.results.iter().map(from_wire).collect();
        let nonsense = CallError::Nonsense { upstream: upstream.clone(), orders: orders.len(), answers: response.results.len() };
        answers.filter(|answers| answers.len() == orders.len()).ok_or(nonsense)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The call carries the current trace, so that upstream's own spans become its children.
fn traced(message: proto::ResendMessagesRequest) -> tonic::Request<proto::ResendMessagesRequest> {
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
