//! `countersign history`: what callback and operators did about the deliveries of one message.

use clap::Args;
use countersign_wire::proto::{Delivery, GetDeliveryRequest};
use serde_json::{Value, json};

use crate::exit::Done;
use crate::target::Target;
use crate::{client, output};

#[derive(Args)]
pub struct HistoryArgs {
    /// The message's id.
    id: String,
    /// Only of this subscription.
    #[arg(long, default_value = "")]
    subscription: String,
}

pub async fn history(target: &Target, args: HistoryArgs) -> anyhow::Result<Done> {
    let request = GetDeliveryRequest { message_id: args.id.clone() };
    let mut found = client::callback(target).await?.get_delivery(request).await?.into_inner().deliveries;
    if !args.subscription.is_empty() {
        let known: Vec<String> = found.iter().map(|delivery| delivery.subscription.clone()).collect();
        found.retain(|delivery| delivery.subscription == args.subscription);
        if found.is_empty() {
            anyhow::bail!("callback knows message {} for {}, but not for {}", args.id, known.join(", "), args.subscription);
        }
    }
    let json = json!({"message_id": args.id, "deliveries": found.iter().map(as_json).collect::<Vec<_>>()});
    output::print(target.output, &json, || {
        let lines: Vec<String> = output::history(&found).collect();
        if lines.is_empty() { "it went the straight way, which leaves no history".to_owned() } else { lines.join("\n") }
    });
    Ok(Done::All)
}

fn as_json(delivery: &Delivery) -> Value {
    let history = delivery.history.iter().map(output::history_line);
    json!({"subscription": delivery.subscription, "state": delivery.state, "history": history.collect::<Vec<_>>()})
}
