//! The wall clock and the source of ids: the one place that may ask the machine for either.

use std::time::{SystemTime, UNIX_EPOCH};

use countersign_delivery::Timestamp;
use countersign_delivery::ports::{Clock, Ids};
use uuid::Uuid;

use crate::failpoints::clock_offset_ms;

/// The machine's wall clock. It may jump; nothing in the protocol compares it with another machine's.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let millis = i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_millis(millis.saturating_add(clock_offset_ms()))
    }
}

/// Fresh `UUIDv7`s; within one process each is greater than the one before.
#[derive(Debug, Clone, Copy, Default)]
pub struct RandomIds;

impl Ids for RandomIds {
    #[allow(clippy::disallowed_methods, reason = "the one place that mints ids")]
    fn uuid(&self) -> Uuid {
        shifted(Uuid::now_v7(), clock_offset_ms())
    }
}

/// The same id, minted by a clock that is off by so many milliseconds; version 7 begins with 48 bits of them.
fn shifted(id: Uuid, offset_ms: i64) -> Uuid {
    const SHIFT: u32 = 80;
    if offset_ms == 0 {
        return id;
    }
    let millis = u64::try_from(id.as_u128() >> SHIFT).unwrap_or(u64::MAX).saturating_add_signed(offset_ms);
    Uuid::from_u128(id.as_u128() & ((1 << SHIFT) - 1) | u128::from(millis) << SHIFT)
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
    fn a_clock_that_is_off_mints_at_another_time_and_nothing_else_changes() {
        let (id, hour) = (RandomIds.uuid(), 3_600_000);
        for offset in [-hour, 0, hour] {
            let other = shifted(id, offset);
            assert_eq!(other.get_version_num(), 7);
            assert_eq!(shifted(other, -offset), id);
            let millis = |id: Uuid| i64::try_from(id.as_u128() >> 80).unwrap();
            assert_eq!(millis(other) - millis(id), offset);
        }
    }

    #[test]
    fn the_clock_knows_what_century_it_is() {
        let year_2025 = Timestamp::from_millis(1_735_689_600_000);
        assert!(SystemClock.now() > year_2025);
    }
}
