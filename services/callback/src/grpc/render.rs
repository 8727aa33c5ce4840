//! A delivery as operators see it, and what became of it when they acted.

use bytes::Bytes;
use countersign_delivery::Timestamp;
use countersign_delivery::message::Attempt;
use countersign_delivery::ports::deliveries::{DeliveryKey, HistoryLine, state_word};
use countersign_delivery::state::{Command, Delivery, Signed};
use countersign_wire::proto;

use crate::operate::ActOutcome;

/// One row with its history.
pub(super) fn delivery(key: &DeliveryKey, row: &Delivery, history: &[HistoryLine]) -> proto::Delivery {
    proto::Delivery {
        message_id: key.message_id.to_string(),
        subscription: key.subscription.to_string(),
        state: state_word(row).to_owned(),
        reason: reason(row),
        attempt: Some(attempt(row.attempt())),
        upstream: row.facts.upstream.to_string(),
        fingerprint: Bytes::copy_from_slice(row.facts.fingerprint.as_bytes()),
        sent_at_ms: row.facts.sent_at.as_millis(),
        live_until_ms: live_until_ms(row),
        history: history.iter().map(line).collect(),
        retry_delay_ms: retry_delay_ms(row),
        effect_epoch: row.effect_epoch,
    }
}

/// Why it was parked, failed or put back; empty when it was not.
fn reason(row: &Delivery) -> String {
    match (&row.signed, &row.command) {
        (Signed::Done { .. }, _) => String::new(),
        (Signed::Failed { reason, detail, .. }, _) if !detail.is_empty() => format!("{}: {detail}", reason.as_str()),
        (_, Command::Parked { reason, .. } | Command::Discarded { reason, .. }) => reason.as_str().to_owned(),
        (Signed::Failed { reason, .. }, _) => reason.as_str().to_owned(),
        (Signed::Retrying { detail, .. }, _) => detail.clone(),
        _ => String::new(),
    }
}

fn live_until_ms(row: &Delivery) -> i64 {
    match row.signed {
        Signed::Processing { .. } | Signed::Retrying { .. } => row.live_until.map_or(0, Timestamp::as_millis),
        _ => 0,
    }
}

const fn retry_delay_ms(row: &Delivery) -> u64 {
    match row.signed {
        Signed::Retrying { delay_ms, .. } => delay_ms,
        _ => 0,
    }
}

fn line(line: &HistoryLine) -> proto::HistoryLine {
    proto::HistoryLine {
        at_ms: line.at.as_millis(),
        attempt: Some(attempt(line.attempt)),
        what: line.what.clone(),
        detail: line.detail.clone(),
    }
}

fn attempt(attempt: Attempt) -> proto::Attempt {
    proto::Attempt { epoch: attempt.epoch, number: attempt.number }
}

/// What became of one delivery of an act.
pub(super) fn act_result(outcome: ActOutcome) -> proto::DeliveryActResult {
    let ActOutcome { subscription, result, detail } = outcome;
    proto::DeliveryActResult { subscription: subscription.to_string(), result: result.to_owned(), detail }
}
