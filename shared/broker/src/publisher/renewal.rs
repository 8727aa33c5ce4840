//! When a channel on which the broker refuses messages is changed for another one.
//!
//! A refusal usually means a full queue, and no channel changes that. But RabbitMQ keeps for each channel and quorum queue whom it takes for the
//! leader, from the channel's first publish there. A channel that publishes for the first time while a node has just died may take the dead one,
//! and from then on refuses whatever is published to that queue until the node is back, although the queue has long had another leader. A
//! new channel learns the new one.

use std::time::Duration;

use tokio::time::Instant;

/// A channel keeps refusals at least this long.
const FIRST: Duration = Duration::from_secs(1);
/// And at most this long, when its predecessors had refusals too: then it is the queue.
const MOST: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Renewal {
    opened: Instant,
    pause: Duration,
    refused: bool,
}

impl Renewal {
    pub(super) const fn new(now: Instant) -> Self {
        Self { opened: now, pause: FIRST, refused: false }
    }

    /// A message was refused.
    pub(super) const fn refused(&mut self) {
        self.refused = true;
    }

    /// Another channel is there.
    pub(super) fn opened(&mut self, now: Instant) {
        let pause = if self.refused { (self.pause * 2).min(MOST) } else { FIRST };
        *self = Self { opened: now, pause, refused: false };
    }

    /// Whether the channel is to be changed as soon as nothing is in flight on it.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.refused && now >= self.opened + self.pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_channel_with_refusals_is_changed_ever_more_rarely_until_one_has_none() {
        let mut now = Instant::now();
        let mut renewal = Renewal::new(now);
        assert!(!renewal.is_due(now + MOST), "nothing was refused");
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            renewal.refused();
            assert!(!renewal.is_due(now + Duration::from_secs(pause) - Duration::from_millis(1)));
            now += Duration::from_secs(pause);
            assert!(renewal.is_due(now));
            renewal.opened(now);
        }
        renewal.opened(now);
        renewal.refused();
        assert!(renewal.is_due(now + FIRST), "the one before had none");
    }
}
