//! `countersign list`: deliveries by state.

use clap::Args;
use countersign_wire::proto::{Delivery, ListDeliveriesRequest};
use serde_json::json;

use crate::exit::Done;
use crate::target::Target;
use crate::{client, output};

/// Largest page callback gives.
const PAGE: u32 = 1_000;

#[derive(Args)]
pub struct ListArgs {
    /// Only these states: done, processing, retrying, failed, resending, resent, parked, discarded.
    #[arg(long = "state", value_delimiter = ',')]
    states: Vec<String>,
    /// Only this subscription.
    #[arg(long, default_value = "")]
    subscription: String,
    /// At most so many.
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

pub async fn run(target: &Target, args: ListArgs) -> anyhow::Result<Done> {
    let mut callback = client::callback(target).await?;
    let mut found: Vec<Delivery> = Vec::new();
    let mut page_token = String::new();
    while found.len() < args.limit {
        let page_size = u32::try_from(args.limit - found.len()).unwrap_or(PAGE).min(PAGE);
        let (states, subscription) = (args.states.clone(), args.subscription.clone());
        let request = ListDeliveriesRequest { page_size, page_token, states, subscription };
        let page = callback.list_deliveries(request).await?.into_inner();
        found.extend(page.deliveries);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let json = json!({
        "deliveries": found.iter().map(output::delivery).collect::<Vec<_>>(),
        "more": !page_token.is_empty(),
    });
    output::print(target.output, &json, || {
        let more = if page_token.is_empty() { "" } else { "\nthere are more: raise --limit" };
        format!("{}{more}", output::deliveries(&found))
    });
    Ok(Done::All)
}
