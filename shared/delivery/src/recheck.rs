//! When a check that could not be settled comes again.

use crate::topology::Topology;

/// The longest delay of a check whose upstream does not answer, milliseconds, unless the shortest tier is longer.
///
/// Its breaker keeps calls away from it, and one look costs a read of MSG DB and a place in a batch; so what waits is tried soon after it
/// answers again, however long it was away. Not shorter, because all that is lost of it is looked at that often.
pub const UNREACHABLE_DELAY_MAX_MS: u64 = 60_000;

/// What is in the way; of several, the greatest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pace {
    /// Only others who came first: through the shortest tier, and none the older for it.
    Soon,
    /// The upstream does not answer: through longer tiers up to [`UNREACHABLE_DELAY_MAX_MS`].
    Unreachable,
    /// What only time can show: through longer and longer tiers.
    Ladder,
}

/// When a check comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recheck {
    /// Through which tier.
    pub delay_ms: u64,
    /// How many waits it has behind it then.
    pub waits: u32,
}

/// When a check comes again that has waited `waits` times.
#[must_use]
pub fn recheck(topology: &Topology, waits: u32, pace: Pace) -> Recheck {
    let (shortest, next) = (topology.recheck_delay_ms(0), topology.recheck_delay_ms(waits));
    let later = waits.saturating_add(1);
    match pace {
        Pace::Soon => Recheck { delay_ms: shortest, waits },
        Pace::Unreachable if next > UNREACHABLE_DELAY_MAX_MS => {
            let short = topology.checks.recheck_delays_ms.iter().copied().filter(|delay| *delay <= UNREACHABLE_DELAY_MAX_MS);
            Recheck { delay_ms: short.max().unwrap_or(shortest), waits }
        }
        Pace::Unreachable | Pace::Ladder => Recheck { delay_ms: next, waits: later },
    }
}
