//! `countersign discard`: nothing more is done about deliveries.

use clap::Args;
use countersign_wire::proto::DiscardDeliveryRequest;

use super::{On, Operator, each, print};
use crate::exit::Done;
use crate::target::Target;

#[derive(Args)]
pub struct DiscardArgs {
    #[command(flatten)]
    on: On,
    /// Why; goes into its history and the audit.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    operator: Operator,
}

pub async fn discard(target: &Target, args: DiscardArgs) -> anyhow::Result<Done> {
    let DiscardArgs { on, reason, operator } = args;
    let by = operator.name();
    let acted = each(target, &on.ids, async |mut callback, message_id| {
        let (subscription, by, reason) = (on.subscription.clone(), by.clone(), reason.clone());
        let request = DiscardDeliveryRequest { message_id, subscription, by, reason };
        Ok(callback.discard_delivery(request).await?.into_inner().results)
    });
    // Whoever was not named and is done was not asked for.
    let all = on.subscription.is_empty();
    Ok(print(target, &acted.await?, None, |result| result == "discarded" || (all && result == "already_done")))
}
