//! `countersign subscriptions`: how the subscriptions of one downstream stand. Beside it the verbs that pause and resume one.

mod pause;
mod resume;

use clap::Args;
use countersign_wire::proto::{BreakerState, ListSubscriptionsRequest, SubscriptionStatus};
use serde_json::{Value, json};

use crate::exit::Done;
use crate::target::Target;
use crate::{client, output};

pub use pause::{PauseArgs, pause};
pub use resume::{ResumeArgs, resume};

#[derive(Args)]
pub struct SubscriptionsArgs {}

pub async fn list(target: &Target, _: &SubscriptionsArgs) -> anyhow::Result<Done> {
    let mut downstream = client::subscriptions(target).await?;
    let found = downstream.list_subscriptions(ListSubscriptionsRequest {}).await?.into_inner().subscriptions;
    output::print(target.output, &json!({"subscriptions": found.iter().map(status).collect::<Vec<_>>()}), || table(&found));
    Ok(Done::All)
}

/// A subscription as JSON.
fn status(status: &SubscriptionStatus) -> Value {
    let paused = status.paused.as_ref();
    json!({
        "name": status.name,
        "guard": status.guard,
        "paused": paused.map(|pause| json!({"reason": pause.reason, "by": pause.by, "since": output::time(pause.since_ms)})),
        "breaker": breaker(status),
        "in_flight": status.in_flight,
        "waiting": status.waiting,
        "rate_per_second": (status.rate_per_second > 0).then_some(status.rate_per_second),
        "concurrency": status.concurrency,
    })
}

/// Subscriptions as a table.
fn table(subscriptions: &[SubscriptionStatus]) -> String {
    let rows = subscriptions.iter().map(|status| {
        let rate = if status.rate_per_second > 0 { status.rate_per_second.to_string() } else { String::new() };
        [
            status.name.clone(),
            status.guard.clone(),
            pause_in_words(status),
            breaker(status).to_owned(),
            status.in_flight.to_string(),
            status.waiting.to_string(),
            rate,
            status.concurrency.to_string(),
        ]
    });
    output::table(["subscription", "guard", "paused", "breaker", "in flight", "waiting", "rate per second", "concurrency"], rows)
}

fn pause_in_words(status: &SubscriptionStatus) -> String {
    let Some(pause) = &status.paused else { return String::new() };
    let by = if pause.by.is_empty() { String::new() } else { format!(" by {}", pause.by) };
    format!("since {}{by}: {}", output::time(pause.since_ms), pause.reason)
}

fn breaker(status: &SubscriptionStatus) -> &'static str {
    match status.breaker() {
        BreakerState::Closed => "closed",
        BreakerState::Open => "open",
        BreakerState::Trying => "trying",
        BreakerState::Unspecified => "unspecified",
    }
}
