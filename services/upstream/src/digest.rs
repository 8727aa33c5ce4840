//! What is stored, in sums by subscription and minute, and one by one: upstream's side of reconciliation. Reads only.
//!
//! Until when everything is settled is read before the rows ([`settled_until`]), and from when on nothing has been deleted after them
//! ([`kept_from`]): between the two, what is summed is all there is. Rows come in short pages in the order of ids, with a pause after each
//! ([`pause_after`]), so neither a transaction nor a send waits for them.
//!
//! What can fail: the database (the caller asks again); nothing is kept between two calls.
//!
//! **Invariant:** counted is what a check watches over: mode `verified`, and mode `outbox` with a check once the broker has confirmed it.

use countersign_delivery::ports::PortError;
use countersign_delivery::ports::messages::Heartbeat;
use countersign_delivery::ports::stored::StoredRow;
use countersign_delivery::reconcile::{MINUTE_MS, Sums, Window, minute_of, pause_after};
use countersign_delivery::topology::Mode;
use countersign_delivery::{MessageId, SubscriptionName, Timestamp, Topology};
use tokio::time::{Instant, sleep};

use crate::desk::Desk;

/// The longest window that is answered at once, milliseconds.
const WINDOW_MAX_MS: u64 = 24 * 3_600_000;
/// Messages that one look at the database covers at most.
const LOOK: u32 = 2_000;
/// Looks at the database of one page of a list at most: where a subscription has few messages among many, its page is short.
const LOOKS_MAX: u32 = 50;
/// Sums of one answer at most: 150 subscriptions for a whole day, about 12 MiB with names of twenty letters.
const SUMS_MAX: usize = 216_000;
/// How much later than by the retention alone something counts as kept: deletion goes by when a message was accepted, by the clock of
/// any replica.
const KEPT_MARGIN_MS: u64 = 300_000;

/// Why sums cannot be given.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DigestError {
    /// The database.
    #[error(transparent)]
    Database(#[from] PortError),
    /// More sums than one answer holds.
    #[error("the window has more than {SUMS_MAX} sums of one subscription and one minute: ask for a shorter one")]
    TooMany,
}

/// The sums of a window.
#[derive(Debug)]
pub(crate) struct StoredSums {
    /// Everything minted before is settled.
    pub settled_until: Timestamp,
    /// What was minted before may have been deleted; none: nothing is deleted.
    pub kept_from: Option<Timestamp>,
    /// By subscription and minute.
    pub sums: Sums,
}

/// The window of these milliseconds, or what would be right.
pub(crate) fn window(from_ms: i64, until_ms: i64) -> Result<Window, String> {
    let (since, until) = (Timestamp::from_millis(from_ms), Timestamp::from_millis(until_ms));
    for (field, at) in [("from_ms", since), ("until_ms", until)] {
        if at < Timestamp::default() || minute_of(at) != at {
            return Err(format!("{field} is {}: give a whole minute, a multiple of {MINUTE_MS}", at.as_millis()));
        }
    }
    let window = Window { since, until };
    if window.is_empty() {
        return Err(format!("the window is empty: until_ms must be after from_ms, by {MINUTE_MS} at least"));
    }
    let long_ms = until.millis_since(since);
    if long_ms > WINDOW_MAX_MS {
        return Err(format!("the window has {long_ms} ms; at most {WINDOW_MAX_MS} are answered at once: ask in parts"));
    }
    Ok(window)
}

/// Sums up a window.
pub(crate) async fn sums(desk: &Desk, window: Window) -> Result<StoredSums, DigestError> {
    // First of all: an incarnation that is opened after this mints nothing before what it says.
    let now = desk.clock.now();
    let settled_until = settled_until(&desk.messages.heartbeats(&desk.config.name).await?, now);
    let (mut sums, mut after) = (Sums::new(), None);
    loop {
        let began = Instant::now();
        let page = desk.stored.stored(&desk.config.name, window, after, LOOK).await?;
        for row in page.rows.iter().filter(|row| is_watched(&desk.topology, row)) {
            add(&mut sums, row);
        }
        if sums.values().map(std::collections::BTreeMap::len).sum::<usize>() > SUMS_MAX {
            return Err(DigestError::TooMany);
        }
        after = page.next;
        if after.is_none() {
            break;
        }
        sleep(pause_after(began.elapsed())).await;
    }
    Ok(StoredSums { settled_until, kept_from: kept_from(desk.config.retention_ms, desk.clock.now()), sums })
}

/// Up to `limit` messages of a window that a subscription must sign for, ascending, after `after`; and where the next page begins.
pub(crate) async fn list(
    desk: &Desk,
    window: Window,
    subscription: &SubscriptionName,
    mut after: Option<MessageId>,
    limit: usize,
) -> Result<(Vec<StoredRow>, Option<MessageId>), PortError> {
    let mut found = Vec::new();
    for _ in 0..LOOKS_MAX {
        let began = Instant::now();
        let page = desk.stored.stored(&desk.config.name, window, after, LOOK).await?;
        after = page.next;
        let wanted = |row: &StoredRow| is_watched(&desk.topology, row) && row.required.contains(subscription);
        found.extend(page.rows.into_iter().filter(wanted));
        if found.len() > limit {
            found.truncate(limit);
            after = found.last().map(|row| row.id);
        }
        if after.is_none() || found.len() >= limit {
            break;
        }
        sleep(pause_after(began.elapsed())).await;
    }
    Ok((found, after))
}

/// Everything minted before is settled: what the slowest incarnation says that is not closed, and never later than `now`. While all are
/// closed nothing is said: it is what heartbeats have told that binds those who open later, and no clock alone.
fn settled_until(unclosed: &[Heartbeat], now: Timestamp) -> Timestamp {
    let slowest = unclosed.iter().map(|heartbeat| heartbeat.settled_until).min();
    slowest.map_or_else(Timestamp::default, |until| until.min(now))
}

/// What was minted before may have been deleted by `now`; none: nothing is deleted.
fn kept_from(retention_ms: u64, now: Timestamp) -> Option<Timestamp> {
    (retention_ms > 0).then(|| now.minus_millis(retention_ms).plus_millis(KEPT_MARGIN_MS))
}

fn is_watched(topology: &Topology, row: &StoredRow) -> bool {
    row.mode != Mode::Outbox || topology.route(&row.exchange, &row.routing_key).has_check()
}

fn add(sums: &mut Sums, row: &StoredRow) {
    let minute = minute_of(row.id.minted_at());
    for subscription in &row.required {
        if let Some(minutes) = sums.get_mut(subscription) {
            minutes.entry(minute).or_default().add(row.id, &row.fingerprint);
        } else {
            sums.entry(subscription.clone()).or_default().entry(minute).or_default().add(row.id, &row.fingerprint);
        }
    }
}

#[cfg(test)]
mod tests;
