//! Tables for people, JSON for programs.

use std::io::Write as _;

use comfy_table::Table;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use countersign_wire::proto;
use serde_json::{Value, json};

use crate::target::Format;

/// Prints the JSON form or the table form of one answer.
pub fn print(format: Format, json: &Value, table: impl FnOnce() -> String) {
    match format {
        Format::Json => write(&format!("{json:#}")),
        Format::Table => write(&table()),
    }
}

/// Prints a text. A reader who has gone, such as `head`, is no error.
pub fn write(text: &str) {
    if let Err(error) = writeln!(std::io::stdout().lock(), "{text}")
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        eprintln!("countersign: the answer cannot be printed: {error}");
    }
}

/// A table with this head and these rows.
pub fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY).set_header(head);
    for row in rows {
        table.add_row(row);
    }
    table.to_string()
}

/// RFC 3339 text of a time on the wire; empty for 0.
pub fn time(millis: i64) -> String {
    if millis == 0 {
        return String::new();
    }
    jiff::Timestamp::from_millisecond(millis).map_or_else(|_| millis.to_string(), |time| time.to_string())
}

/// `1`, or `1 in epoch 2`.
pub fn attempt(attempt: Option<proto::Attempt>) -> String {
    match attempt.unwrap_or_default() {
        proto::Attempt { epoch: 0, number } => number.to_string(),
        proto::Attempt { epoch, number } => format!("{number} in epoch {epoch}"),
    }
}

/// Hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

/// The word for how far an accepted message has come.
pub const fn send_state(state: proto::SendState) -> &'static str {
    match state {
        proto::SendState::Confirmed => "confirmed",
        proto::SendState::Committed => "committed",
        proto::SendState::Unspecified => "unspecified",
    }
}

/// The word for how a row of mode `outbox` stands.
pub const fn outbox_status(status: proto::OutboxStatus) -> &'static str {
    match status {
        proto::OutboxStatus::Sending => "sending",
        proto::OutboxStatus::Confirmed => "confirmed",
        proto::OutboxStatus::Failed => "failed",
        proto::OutboxStatus::Unspecified => "unspecified",
    }
}

/// A row of mode `outbox` as JSON.
pub fn outbox(entry: &proto::OutboxEntry) -> Value {
    let status = outbox_status(entry.status());
    json!({"status": status, "tries": entry.tries, "reason": entry.reason, "due_at": time(entry.due_at_ms)})
}

/// A delivery as JSON.
pub fn delivery(delivery: &proto::Delivery) -> Value {
    let attempt = delivery.attempt.unwrap_or_default();
    json!({
        "message_id": delivery.message_id,
        "subscription": delivery.subscription,
        "state": delivery.state,
        "reason": delivery.reason,
        "attempt": attempt.number,
        "epoch": attempt.epoch,
        "effect_epoch": (delivery.effect_epoch > 0).then_some(delivery.effect_epoch),
        "upstream": delivery.upstream,
        "fingerprint": hex(&delivery.fingerprint),
        "sent_at": time(delivery.sent_at_ms),
        "live_until": time(delivery.live_until_ms),
        "history": delivery.history.iter().map(history_line).collect::<Vec<_>>(),
    })
}

/// One line of a delivery's history as JSON.
pub fn history_line(line: &proto::HistoryLine) -> Value {
    let attempt = line.attempt.unwrap_or_default();
    json!({"at": time(line.at_ms), "attempt": attempt.number, "epoch": attempt.epoch, "what": line.what, "detail": line.detail})
}

/// The history of deliveries as text, one line each.
pub fn history(deliveries: &[proto::Delivery]) -> impl Iterator<Item = String> {
    deliveries.iter().flat_map(|delivery| {
        delivery.history.iter().map(|line| {
            let (at, attempt) = (time(line.at_ms), self::attempt(line.attempt));
            format!("{at} {}: {} (attempt {attempt}) {}", delivery.subscription, line.what, line.detail).trim_end().to_owned()
        })
    })
}

/// Deliveries as a table.
pub fn deliveries(deliveries: &[proto::Delivery]) -> String {
    let rows = deliveries.iter().map(|delivery| {
        [
            delivery.message_id.clone(),
            delivery.subscription.clone(),
            delivery.state.clone(),
            delivery.reason.clone(),
            self::attempt(delivery.attempt),
            time(delivery.sent_at_ms),
        ]
    });
    table(["message", "subscription", "state", "reason", "attempt", "sent at"], rows)
}
