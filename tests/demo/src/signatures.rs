//! What callback has written down, by its own gRPC.

use std::collections::BTreeMap;

use countersign_launcher::{System, Which};
use countersign_wire::proto::ListDeliveriesRequest;
use countersign_wire::proto::callback_service_client::CallbackServiceClient;
use tonic::transport::Endpoint;

/// How many deliveries stand in each state, and how often they were sent again.
#[derive(Debug, Clone, Default)]
pub struct Signatures {
    /// By state.
    pub states: BTreeMap<String, u64>,
    /// Deliveries that were sent again.
    pub resent: u64,
    /// Resends of all of them together.
    pub resends: u64,
}

impl Signatures {
    /// Deliveries in one state.
    pub fn count(&self, state: &str) -> u64 {
        self.states.get(state).copied().unwrap_or(0)
    }
}

/// Reads the deliveries in these states, page by page; no state: all of them.
///
/// # Errors
/// When callback does not answer.
pub async fn read(system: &System, states: &[&str]) -> anyhow::Result<Signatures> {
    let channel = Endpoint::from_shared(system.grpc_url(Which::Callback))?.connect().await?;
    let mut callback = CallbackServiceClient::new(channel);
    let states: Vec<String> = states.iter().map(ToString::to_string).collect();
    let mut signatures = Signatures::default();
    let mut page_token = String::new();
    loop {
        let request = ListDeliveriesRequest { page_size: 1_000, page_token, states: states.clone(), ..Default::default() };
        let page = callback.list_deliveries(request).await?.into_inner();
        for delivery in page.deliveries {
            let again = u64::from(delivery.attempt.unwrap_or_default().number.saturating_sub(1));
            signatures.resent += u64::from(again > 0);
            signatures.resends += again;
            *signatures.states.entry(delivery.state).or_default() += 1;
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(signatures);
        }
    }
}
