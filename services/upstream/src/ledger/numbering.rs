//! Where the messages of an incarnation of this process get their seqs, and with them their ids.
//!
//! A message may wait before it is numbered: for room, in the queue of the commits, for an incarnation. If its id were older than its seq,
//! it would be minted and unsettled, and no seq would tell. So the id is minted here, under the lock that assigns the seq, and whoever is
//! numbered again (fenced, rolled back) gets a new one: its insert is fenced together with the incarnation whose heartbeat counts it, so
//! nothing is ever stored that was minted before a time until which everything was said to be settled. A transaction that is open, a
//! commit without an answer and a message without a confirm are unsettled seqs like all others.
//!
//! An id says under which seq of which incarnation it was minted ([`MessageId::at`]), so a message is found by its id without an index on ids.
//!
//! A clock may be behind those of other replicas, or of a predecessor: what they have promised, and callback has certified, is the
//! incarnation's floor ([`countersign_delivery::settled::floor`]). Until the clock has come up to it, ids bear the floor's time; they then
//! lie in a minute later than the clock's, which is as good as any that is not certified. A clock that is ahead makes ids that lie in a
//! minute to come: they are compared when the database's clocks have passed it, since no heartbeat says more than the database's clock.
//!
//! **Invariant:** nothing is minted before a time until which everything has been said to be settled, and ids are in the order of their seqs.

use std::sync::Arc;

use countersign_delivery::ports::Clock;
use countersign_delivery::settled::Settled;
use countersign_delivery::watermark::Tracker;
use countersign_delivery::{IncarnationId, MessageId, Seq, Timestamp};

/// Gives out seqs and ids; behind the ledger's lock.
#[derive(Debug)]
pub(super) struct Numbering {
    incarnation: IncarnationId,
    clock: Arc<dyn Clock>,
    /// Nothing is minted before: the floor, and then the last id's time.
    latest: Timestamp,
    pub tracker: Tracker,
    settled: Settled,
}

impl Numbering {
    pub(super) fn new(incarnation: IncarnationId, floor: Timestamp, clock: Arc<dyn Clock>) -> Self {
        Self { incarnation, clock, latest: floor, tracker: Tracker::default(), settled: Settled::since(floor) }
    }

    /// The next seq, and the id that goes with it.
    pub(super) fn assign(&mut self) -> (Seq, MessageId) {
        let (seq, minted_at) = (self.tracker.assign(), self.now());
        (seq, MessageId::at(self.incarnation, seq, minted_at))
    }

    /// Until when everything that was minted here is settled. Called once a heartbeat: it takes a sample.
    pub(super) fn settled_until(&mut self) -> Timestamp {
        let now = self.now();
        self.settled.sample(now, self.tracker.next(), self.tracker.watermark())
    }

    /// The clock's time, or the latest there was: a clock may go back, ids do not.
    fn now(&mut self) -> Timestamp {
        self.latest = self.latest.max(self.clock.now());
        self.latest
    }
}
