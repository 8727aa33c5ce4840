//! How much shorter than its tier a message stays in it, so that what failed together does not all come again at once.
//!
//! A TTL ends only at the head of its queue. So nothing may stay longer than the tier's own TTL: then the tier stays first in, first out
//! (whoever goes through it without an expiration still comes out behind what entered before), and `RETRYING(delay)` stays true. What
//! stands behind a longer wait waits with it, so messages that enter one after the other are spread, and a block that enters at once is
//! thinned at its beginning only.

use std::time::Duration;

/// The largest share of a tier's delay that may be left out.
pub const JITTER_MAX: f64 = 0.9;

/// The expiration of a copy in a tier, milliseconds: in `[delay_ms × (1 − jitter), delay_ms]` by `random`, and not below `least_ms`. None:
/// the tier's own TTL. `jitter` is a share, 0 to [`JITTER_MAX`].
#[must_use]
pub fn expiration_ms(delay_ms: u64, jitter: f64, random: u32, least_ms: u64) -> Option<u64> {
    let share = jitter.clamp(0.0, JITTER_MAX) * f64::from(random) / f64::from(u32::MAX);
    let left_out = Duration::from_millis(delay_ms).mul_f64(share).as_millis();
    let kept = delay_ms.saturating_sub(u64::try_from(left_out).unwrap_or(0)).max(least_ms);
    (kept < delay_ms).then_some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: u32 = u32::MAX / 2;

    #[test]
    fn a_share_of_the_delay_is_left_out_and_never_more_than_that() {
        let rows = [
            // Without jitter, and by the smallest random share, the tier's own TTL.
            (10_000, 0.0, u32::MAX, 0, None),
            (10_000, 0.2, 0, 0, None),
            (10_000, 0.2, HALF, 0, Some(9_000)),
            (10_000, 0.2, u32::MAX, 0, Some(8_000)),
            (10_000, 0.9, u32::MAX, 0, Some(1_000)),
            // The shortest and the longest tier there can be.
            (1, 0.9, u32::MAX, 0, None),
            (4_294_967_295, 0.2, u32::MAX, 0, Some(3_435_973_836)),
            // A larger share is cut.
            (10_000, 7.0, u32::MAX, 0, Some(1_000)),
        ];
        for (delay_ms, jitter, random, least_ms, wanted) in rows {
            assert_eq!(expiration_ms(delay_ms, jitter, random, least_ms), wanted, "{delay_ms} {jitter} {random}");
        }
    }

    #[test]
    fn what_another_owner_holds_does_not_come_before_its_lease_has_ended() {
        let rows = [(8_500, Some(8_500)), (10_000, None), (30_000, None), (7_000, Some(8_000))];
        for (lease_ms, wanted) in rows {
            assert_eq!(expiration_ms(10_000, 0.2, u32::MAX, lease_ms), wanted, "{lease_ms}");
        }
    }

    #[test]
    fn every_wait_is_within_its_bounds_and_they_are_spread() {
        let waits = (0..=u32::MAX).step_by(4_999_999).map(|random| expiration_ms(60_000, 0.2, random, 0).unwrap_or(60_000));
        let waits: std::collections::BTreeSet<u64> = waits.collect();
        assert!(waits.iter().all(|wait| (48_000..=60_000).contains(wait)), "{waits:?}");
        assert!(waits.len() > 800, "{} different ones", waits.len());
    }
}
