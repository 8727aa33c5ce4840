//! `countersign restore`: takes discards back.

use clap::Args;
use countersign_wire::proto::RestoreDeliveryRequest;

use super::{On, Operator, each, print};
use crate::exit::Done;
use crate::target::Target;

#[derive(Args)]
pub struct RestoreArgs {
    #[command(flatten)]
    on: On,
    /// Why; goes into its history and the audit.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    operator: Operator,
}

pub async fn restore(target: &Target, args: RestoreArgs) -> anyhow::Result<Done> {
    let RestoreArgs { on, reason, operator } = args;
    let by = operator.name();
    let acted = each(target, &on.ids, async |mut callback, message_id| {
        let (subscription, by, reason) = (on.subscription.clone(), by.clone(), reason.clone());
        let request = RestoreDeliveryRequest { message_id, subscription, by, reason };
        Ok(callback.restore_delivery(request).await?.into_inner().results)
    });
    Ok(print(target, &acted.await?, None, |result| result == "restored"))
}
