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
/// So long nothing more is published, for what is in flight to be confirmed. A queue without a leader confirms nothing, and must not hold up others.
const HOLD: Duration = Duration::from_millis(250);

/// What to do with the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Publish on it.
    Keep,
    /// Publish nothing on it: it is to be changed when nothing is in flight.
    Hold,
    /// Open another one.
    Change,
}

#[derive(Debug)]
pub(super) struct Renewal {
    /// When the channel was opened, or was last not changed because something stayed in flight.
    since: Instant,
    pause: Duration,
    refused: bool,
    held_until: Option<Instant>,
}

impl Renewal {
    pub(super) const fn new(now: Instant) -> Self {
        Self { since: now, pause: FIRST, refused: false, held_until: None }
    }

    /// A message was refused.
    pub(super) const fn refused(&mut self) {
        self.refused = true;
    }

    /// Another channel is there.
    pub(super) fn opened(&mut self, now: Instant) {
        let pause = if self.refused { (self.pause * 2).min(MOST) } else { FIRST };
        *self = Self { pause, ..Self::new(now) };
    }

    /// What to do now; `idle` when nothing is in flight.
    pub(super) fn step(&mut self, now: Instant, idle: bool) -> Step {
        if !self.refused || now < self.since + self.pause {
            return Step::Keep;
        }
        if idle {
            return Step::Change;
        }
        if now < *self.held_until.get_or_insert(now + HOLD) {
            return Step::Hold;
        }
        (self.since, self.held_until) = (now, None);
        Step::Keep
    }

    /// When a hold is over.
    pub(super) const fn held_until(&self) -> Option<Instant> {
        self.held_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_channel_with_refusals_is_changed_ever_more_rarely_until_one_has_none() {
        let mut now = Instant::now();
        let mut renewal = Renewal::new(now);
        assert_eq!(renewal.step(now + MOST, true), Step::Keep, "nothing was refused");
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            renewal.refused();
            assert_eq!(renewal.step(now + Duration::from_secs(pause) - Duration::from_millis(1), true), Step::Keep);
            now += Duration::from_secs(pause);
            assert_eq!(renewal.step(now, true), Step::Change);
            renewal.opened(now);
        }
        renewal.opened(now);
        renewal.refused();
        assert_eq!(renewal.step(now + FIRST, true), Step::Change, "the one before had none");
    }

    #[tokio::test]
    async fn what_stays_in_flight_holds_up_nobody_for_long() {
        let begun = Instant::now();
        let mut renewal = Renewal::new(begun);
        renewal.refused();
        let due = begun + FIRST;
        assert_eq!((renewal.step(due, false), renewal.held_until()), (Step::Hold, Some(due + HOLD)));
        assert_eq!(renewal.step(due + HOLD / 2, false), Step::Hold);
        assert_eq!((renewal.step(due + HOLD, false), renewal.held_until()), (Step::Keep, None));
        assert_eq!(renewal.step(due + HOLD + FIRST / 2, true), Step::Keep);
        assert_eq!(renewal.step(due + HOLD + FIRST, true), Step::Change, "it is tried again");
    }
}
