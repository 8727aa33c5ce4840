//! `countersign resend`: an operator's order, in a new epoch.

use clap::Args;
use countersign_wire::proto::ResendDeliveryRequest;
use serde_json::json;

use crate::exit::Done;
use crate::target::Target;
use crate::{client, output};

#[derive(Args)]
pub struct ResendArgs {
    /// The message's id.
    id: String,
    /// Only to this subscription; otherwise to everyone who has not signed.
    #[arg(long, default_value = "")]
    subscription: String,
}

pub async fn run(target: &Target, args: ResendArgs) -> anyhow::Result<Done> {
    let request = ResendDeliveryRequest { message_id: args.id, subscription: args.subscription };
    let results = client::callback(target).await?.resend_delivery(request).await?.into_inner().results;
    let rows = results
        .iter()
        .map(|result| json!({"subscription": result.subscription, "result": result.result, "detail": result.detail}));
    output::print(target.output, &json!({"results": rows.collect::<Vec<_>>()}), || {
        let rows = results.iter().map(|result| [result.subscription.clone(), result.result.clone(), result.detail.clone()]);
        output::table(["subscription", "result", "detail"], rows)
    });
    let all = results.iter().all(|result| result.result == "resent");
    Ok(if all { Done::All } else { Done::Partly })
}
