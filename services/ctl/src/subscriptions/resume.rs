//! `countersign resume`: goes on with a subscription that was paused.

use clap::Args;
use countersign_wire::proto::ResumeSubscriptionRequest;

use crate::exit::Done;
use crate::target::Target;
use crate::{client, output};

use super::{status, table};

#[derive(Args)]
pub struct ResumeArgs {
    /// The subscription's name in the topology.
    subscription: String,
    /// Who you are.
    #[arg(long, env = "USER", default_value = "")]
    by: String,
}

pub async fn resume(target: &Target, args: ResumeArgs) -> anyhow::Result<Done> {
    let mut downstream = client::subscriptions(target).await?;
    let request = ResumeSubscriptionRequest { name: args.subscription, by: args.by };
    let answer = downstream.resume_subscription(request).await?.into_inner();
    let found = answer.subscription.unwrap_or_default();
    let mut json = status(&found);
    json["was_paused"] = answer.was_paused.into();
    output::print(target.output, &json, || {
        let words = if answer.was_paused { "resumed in every process within a second" } else { "it was not paused" };
        format!("{}\n{words}", table(std::slice::from_ref(&found)))
    });
    Ok(Done::All)
}
