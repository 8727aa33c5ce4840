//! What each guard promises, as a table, and the faults that hold it to its word: downstream killed at each point between its five actions,
//! paused (SIGSTOP) for longer than its lease, and Redis emptied, under each guard.
//!
//! Effects are counted in the handler's own database. "Counted" is the metric of possible duplicates: a message whose handling was started
//! and never ended is counted when it is started again, whether or not it had had its effect; which of the two it was, only the handler's
//! database knows. So the count is never below the number of extra effects.

mod forgotten;
mod killed;
mod killed_again;
mod paused;

use countersign_delivery::topology::Guard;
use countersign_flow::Setup;

const SQLITE: Setup = Setup { postgres: false, max_batch: 256 };
const SQLITE_PLAIN: Setup = Setup { postgres: false, max_batch: 1 };
const POSTGRES: Setup = Setup { postgres: true, max_batch: 256 };
const POSTGRES_PLAIN: Setup = Setup { postgres: true, max_batch: 1 };

/// What one message comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// Effects of it.
    pub effects: u64,
    /// How often it is counted as a possible duplicate.
    pub counted: u64,
}

/// Once, and nobody wonders.
const ONCE: Option<Promise> = Some(Promise { effects: 1, counted: 0 });
/// Once, but the record cannot know that.
const COUNTED: Option<Promise> = Some(Promise { effects: 1, counted: 1 });
/// Twice, and counted.
const TWICE: Option<Promise> = Some(Promise { effects: 2, counted: 1 });
/// A message under this guard does not come by this point.
const NEVER: Option<Promise> = None;

/// A fault, and what it does to the message that it hits, by guard.
#[derive(Debug)]
pub struct Row {
    /// Where it hits.
    pub point: &'static str,
    redis: Option<Promise>,
    redis_archive: Option<Promise>,
    tiered: Option<Promise>,
    inbox: Option<Promise>,
}

impl Row {
    /// What is promised under a guard; none: the fault cannot happen.
    #[must_use]
    pub const fn under(&self, guard: Guard) -> Option<Promise> {
        match guard {
            Guard::Redis => self.redis,
            Guard::RedisArchive => self.redis_archive,
            Guard::Tiered => self.tiered,
            Guard::Inbox => self.inbox,
        }
    }
}

/// Killed at this point.
#[rustfmt::skip]
const KILLED: [Row; 8] = [
    Row { point: "downstream.after_delivery",        redis: ONCE,    redis_archive: ONCE,    tiered: ONCE,  inbox: ONCE },
    Row { point: "downstream.after_claim",           redis: COUNTED, redis_archive: COUNTED, tiered: ONCE,  inbox: ONCE },
    Row { point: "downstream.before_commit",         redis: NEVER,   redis_archive: NEVER,   tiered: ONCE,  inbox: ONCE },
    Row { point: "downstream.after_effect",          redis: TWICE,   redis_archive: TWICE,   tiered: ONCE,  inbox: ONCE },
    Row { point: "downstream.after_archive",         redis: NEVER,   redis_archive: ONCE,    tiered: NEVER, inbox: NEVER },
    Row { point: "downstream.after_complete",        redis: ONCE,    redis_archive: ONCE,    tiered: ONCE,  inbox: ONCE },
    Row { point: "downstream.after_receipt_publish", redis: ONCE,    redis_archive: ONCE,    tiered: ONCE,  inbox: ONCE },
    Row { point: "downstream.after_receipt_confirm", redis: ONCE,    redis_archive: ONCE,    tiered: ONCE,  inbox: ONCE },
];

/// What stands in the handler before its effect while the process is killed: it was started, and nobody knows more.
const HELD_BEFORE_EFFECT: Row =
    Row { point: "in the handler, before its effect", redis: COUNTED, redis_archive: COUNTED, tiered: ONCE, inbox: ONCE };

/// Paused by SIGSTOP after the effect, until its lease is over and another process has taken over; then it goes on.
const PAUSED: Row =
    Row { point: "after the effect, before the mark", redis: TWICE, redis_archive: TWICE, tiered: ONCE, inbox: ONCE };

/// Redis loses everything: what had been done and was not acked; what had been started or only handed out; what waited in the queue.
#[rustfmt::skip]
const FORGOTTEN: [Row; 3] = [
    Row { point: "done, not acked",            redis: TWICE,   redis_archive: ONCE,    tiered: ONCE, inbox: ONCE },
    Row { point: "handed out before the loss", redis: COUNTED, redis_archive: COUNTED, tiered: ONCE, inbox: ONCE },
    Row { point: "never handed out",           redis: ONCE,    redis_archive: ONCE,    tiered: ONCE, inbox: ONCE },
];
