//! What an operator does with rows that were refused too often: looks at them, and releases them.

use countersign_delivery::MessageId;
use countersign_delivery::ports::PortError;
use countersign_delivery::ports::outbox::{OutboxRow, Released};
use countersign_telemetry::names;

use crate::desk::Desk;

/// A page of rows that wait for a human, by ascending id, from after `after` on.
pub(crate) async fn list(desk: &Desk, after: Option<MessageId>, limit: u32) -> Result<Vec<OutboxRow>, PortError> {
    desk.outbox.failed(&desk.config.name, after, limit).await
}

/// Releases rows; one answer each, in order. A sweeper publishes them within a second.
pub(crate) async fn release(desk: &Desk, ids: &[MessageId]) -> Result<Vec<Released>, PortError> {
    let answers = desk.outbox.release(&desk.config.name, ids).await?;
    for (id, answer) in ids.iter().zip(&answers) {
        let result = if *answer == Released::Released { "done" } else { "refused" };
        metrics::counter!(names::OPERATOR_ACTS_TOTAL, "act" => "release", "result" => result).increment(1);
        tracing::info!(%id, ?answer, result, "an operator's release of a row of the outbox");
    }
    Ok(answers)
}
