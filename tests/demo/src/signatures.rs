//! What callback has written down, by its own gRPC.

use std::collections::BTreeMap;

use countersign_launcher::{System, Which};
use countersign_wire::proto::ListDeliveriesRequest;
use countersign_wire::proto::callback_service_client::CallbackServiceClient;
use tonic::transport::Endpoint;

/// How many deliveries stand in each state, and how many of the signed ones needed more than one attempt.
#[derive(Debug, Default)]
pub struct Signatures {
    /// By state.
    pub states: BTreeMap<String, u64>,
    /// Deliveries that were sent again.
    pub resent: u64,
}

impl Signatures {
    /// Deliveries in one state.
    pub fn count(&self, state: &str) -> u64 {
        self.states.get(state).copied().unwrap_or(0)
    }
}

/// Reads all deliveries, page by page.
pub async fn read(system: &System) -> anyhow::Result<Signatures> {
    let channel = Endpoint::from_shared(system.grpc_url(Which::Callback))?.connect().await?;
    let mut callback = CallbackServiceClient::new(channel);
    let mut signatures = Signatures::default();
    let mut page_token = String::new();
    loop {
        let request = ListDeliveriesRequest { page_size: 1_000, page_token, ..Default::default() };
        let page = callback.list_deliveries(request).await?.into_inner();
        for delivery in page.deliveries {
            signatures.resent += u64::from(delivery.attempt.unwrap_or_default().number > 1);
            *signatures.states.entry(delivery.state).or_default() += 1;
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(signatures);
        }
    }
}
