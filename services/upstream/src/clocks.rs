//! Whether this process's clock agrees with its database's, told once an incarnation.
//!
//! Neither a message nor a verdict is lost when it does not. A clock that is behind is made up for: nothing is minted before what was
//! promised ([`countersign_delivery::settled::floor`]), and what is sent bears an age by which it is stale, or expires, that much too
//! early. One that is ahead makes it stale that much too late, which a subscription without an inbox may pay for with a second effect,
//! and its messages are compared by reconciliation when their minute has come.

use countersign_delivery::Timestamp;
use countersign_delivery::ports::messages::Opened;
use countersign_delivery::settled::FLOOR_AHEAD_MAX_MS;
use countersign_delivery::time::{MAX_SKEW_MS, skew_ms};
use countersign_telemetry::names;

/// Tells what was found when an incarnation was opened, between `before` and `after` by this process's clock.
#[allow(clippy::cast_precision_loss, reason = "a gauge")]
pub(crate) fn tell(before: Timestamp, after: Timestamp, opened: Opened) {
    let Opened { promised, now } = opened;
    // The database's clock was read between the two.
    let ahead_ms = -skew_ms((before.as_millis(), after.as_millis()), (now.as_millis(), now.as_millis()));
    metrics::gauge!(names::CLOCK_SKEW_SECONDS).set(ahead_ms as f64 / 1_000.0);
    let (own_ms, database_ms, promised_ms) = (after.as_millis(), now.as_millis(), promised.as_millis());
    if ahead_ms.abs() > MAX_SKEW_MS {
        let direction = if ahead_ms > 0 { "ahead of" } else { "behind" };
        tracing::warn!(
            own_ms,
            database_ms,
            promised_ms,
            "this process's clock is {} ms {direction} the database's: keep the time on both machines, with chrony or systemd-timesyncd",
            ahead_ms.abs()
        );
    }
    if promised > now.plus_millis(FLOOR_AHEAD_MAX_MS) {
        tracing::warn!(
            promised_ms,
            database_ms,
            "the database's clock was set back by more than {FLOOR_AHEAD_MAX_MS} ms: minutes that are certified already may get messages \
             again; reconcile them once they are over"
        );
    }
}

#[cfg(test)]
mod tests;
