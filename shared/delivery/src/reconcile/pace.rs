//! How fast reconciliation reads: sends and receipts go first.

use std::time::Duration;

/// The longest pause between two looks. A look that took longer waited for others, and pausing as long would not help them more.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long to wait after a look at a database before the next: as long as the look took, so that sums use half a connection and at most
/// half a core, and what is written meanwhile finds the other half free.
#[must_use]
pub fn pause_after(look: Duration) -> Duration {
    look.min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_as_long_as_the_look_and_bounded() {
        for (look_ms, pause_ms) in [(0, 0), (1, 1), (26, 26), (1_000, 1_000), (30_000, 1_000)] {
            assert_eq!(pause_after(Duration::from_millis(look_ms)), Duration::from_millis(pause_ms), "{look_ms} ms");
        }
    }
}
