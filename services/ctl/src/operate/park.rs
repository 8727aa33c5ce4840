//! `countersign park`: leaves deliveries for a human.

use clap::Args;
use countersign_wire::proto::ParkDeliveryRequest;

use super::{On, Operator, each, print};
use crate::exit::Done;
use crate::target::Target;

#[derive(Args)]
pub struct ParkArgs {
    #[command(flatten)]
    on: On,
    /// Why; goes into its history and the audit.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    operator: Operator,
}

pub async fn park(target: &Target, args: ParkArgs) -> anyhow::Result<Done> {
    let ParkArgs { on, reason, operator } = args;
    let by = operator.name();
    let acted = each(target, &on.ids, async |mut callback, message_id| {
        let (subscription, by, reason) = (on.subscription.clone(), by.clone(), reason.clone());
        let request = ParkDeliveryRequest { message_id, subscription, by, reason };
        Ok(callback.park_delivery(request).await?.into_inner().results)
    });
    // Whoever was not named and is done was not asked for.
    let all = on.subscription.is_empty();
    Ok(print(target, &acted.await?, None, |result| result == "parked" || (all && result == "already_done")))
}
