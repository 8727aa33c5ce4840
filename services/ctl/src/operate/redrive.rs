//! `countersign redrive`: messages are sent again to whoever has not signed, in a new epoch.

use clap::Args;
use countersign_wire::proto::RedriveDeliveryRequest;

use super::{On, Operator, each, print};
use crate::exit::Done;
use crate::target::{Format, Target};

/// Said before the act, to whoever reads along.
const RISK: &str = "--allow-duplicate: its effect may happen a second time, at every subscription that is redriven";

#[derive(Args)]
pub struct RedriveArgs {
    #[command(flatten)]
    on: On,
    /// Send it even if it is done, or older than its consumers remember: its effect may happen a second time.
    #[arg(long)]
    allow_duplicate: bool,
    /// Why; goes into its history and the audit.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    operator: Operator,
}

pub async fn redrive(target: &Target, args: RedriveArgs) -> anyhow::Result<Done> {
    let RedriveArgs { on, allow_duplicate, reason, operator } = args;
    let warning = allow_duplicate.then_some(RISK);
    if let Some(warning) = warning.filter(|_| target.output == Format::Table) {
        eprintln!("countersign: {warning}");
    }
    let by = operator.name();
    let acted = each(target, &on.ids, async |mut callback, message_id| {
        let (subscription, by, reason) = (on.subscription.clone(), by.clone(), reason.clone());
        let request = RedriveDeliveryRequest { message_id, subscription, allow_duplicate, by, reason };
        Ok(callback.redrive_delivery(request).await?.into_inner().results)
    });
    // Whoever was not named and is done was not asked for.
    let all = on.subscription.is_empty();
    Ok(print(target, &acted.await?, warning, |result| result == "resent" || (all && result == "already_done")))
}
