//! The wall clock and the source of ids: the one place that may ask the machine for either.

use std::time::{SystemTime, UNIX_EPOCH};

use countersign_delivery::Timestamp;
use countersign_delivery::ports::{Clock, Ids};
use uuid::Uuid;

/// The machine's wall clock. It may jump; nothing in the protocol compares it with another machine's.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }
}

/// Fresh `UUIDv7`s; within one process each is greater than the one before.
#[derive(Debug, Clone, Copy, Default)]
pub struct RandomIds;

impl Ids for RandomIds {
    #[allow(clippy::disallowed_methods, reason = "the one place that mints ids")]
    fn uuid(&self) -> Uuid {
        Uuid::now_v7()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow() {
        let ids: Vec<Uuid> = (0..1000).map(|_| RandomIds.uuid()).collect();
        assert!(ids.is_sorted());
        assert_eq!(ids[0].get_version_num(), 7);
    }

    #[test]
    fn the_clock_knows_what_century_it_is() {
        let year_2025 = Timestamp::from_millis(1_735_689_600_000);
        assert!(SystemClock.now() > year_2025);
    }
}
