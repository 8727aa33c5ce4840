//! `countersign pause`: no process handles a subscription until it is resumed.

use clap::Args;
use countersign_wire::proto::PauseSubscriptionRequest;

use crate::exit::Done;
use crate::target::Target;
use crate::{client, output};

use super::{status, table};

#[derive(Args)]
pub struct PauseArgs {
    /// The subscription's name in the topology.
    subscription: String,
    /// Why, for whoever finds it paused.
    #[arg(long)]
    reason: String,
    /// Who you are.
    #[arg(long, env = "USER", default_value = "")]
    by: String,
}

pub async fn pause(target: &Target, args: PauseArgs) -> anyhow::Result<Done> {
    let mut downstream = client::subscriptions(target).await?;
    let request = PauseSubscriptionRequest { name: args.subscription, reason: args.reason, by: args.by };
    let paused = downstream.pause_subscription(request).await?.into_inner().subscription.unwrap_or_default();
    output::print(target.output, &status(&paused), || {
        let resume = format!("go on with: countersign resume {}", paused.name);
        format!("{}\npaused in every process within a second; {resume}", table(std::slice::from_ref(&paused)))
    });
    Ok(Done::All)
}
