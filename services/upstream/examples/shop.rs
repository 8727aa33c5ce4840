//! An upstream inside a process of one's own: the business service sends without a call over the network.
//!
//! Callback's orders to send again still come by gRPC, so it is served too.

use countersign_boot::Context;
use countersign_upstream::{Config, NewMessage, Outcome, Service};

fn main() -> std::process::ExitCode {
    countersign_boot::launch("upstream", async |config: Config, context: Context| {
        let upstream = Service::new(config).serve(&context).await?;
        context.tasks.critical("orders", async move {
            let order = NewMessage {
                routing_key: "order.created".into(),
                kind: "order.created".into(),
                content_type: "application/json".into(),
                body: r#"{"order":1}"#.into(),
                idempotency_key: "order-1".into(),
                ..NewMessage::default()
            };
            match upstream.send(order).await {
                Outcome::Confirmed(accepted) | Outcome::Committed(accepted) => tracing::info!(id = %accepted.id, "accepted"),
                Outcome::Refused(refusal) => tracing::warn!(%refusal, "not accepted"),
            }
            anyhow::Ok(())
        });
        Ok(())
    })
}
