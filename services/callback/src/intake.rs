//! The consumers' edge: takes what is ready, has it done in portions, several at a time, and settles. Here alone ack is chosen.
//!
//! A portion that is held up (by MSG DB, the broker, or an upstream for a moment) is tried again by itself, while the others go on. When
//! all are held up nothing more is taken.
//!
//! **Invariant:** nothing is acked that is not done, and nothing is ever put back by hand: what cannot be done now is kept and tried
//! again, so that a long trouble does not count against the broker's delivery limit.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use countersign_boot::{Dependency, Stop};
use countersign_delivery::ports::broker::{Consumer, Consumers, Delivered, Handle, Settlement, Settler};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;

use crate::check::{self, check};
use crate::desk::Desk;
use crate::error::Error;
use crate::record::{self, record};
use crate::take_in::{self, Source, take_in};

/// Bodies that are worked on together, in bytes: a few thousand receipts or checks.
const PORTION_BYTES: usize = 256 * 1024;
/// The first pause when something is in the way; doubles.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Where that doubling ends.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What a queue holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Receipts and signed probes.
    Receipts,
    /// Checks that came due.
    Checks,
    /// Dead letters, or what is in quarantine.
    DeadLetters(Source),
}

/// One consumer of one queue.
pub struct Intake {
    /// The ports and figures.
    pub desk: Desk,
    /// What to do with what comes.
    pub work: Work,
    /// Unsettled deliveries at most.
    pub prefetch: u16,
    /// Portions that are worked on at the same time; 1 keeps them in order.
    pub in_flight: usize,
    /// Says whether it gets on.
    pub health: Dependency,
    /// When to end.
    pub stop: Stop,
}

/// What one step came to.
enum Progress {
    All,
    But(Vec<usize>, Error),
}

impl Intake {
    /// Consumes until soft stop; what is in hand then is finished or left to the broker.
    ///
    /// # Errors
    /// [`Error::Consumer`] when the queue can never be consumed.
    pub async fn run(self, consumers: Arc<dyn Consumers>) -> Result<(), Error> {
        let queue = match &self.work {
            Work::Receipts => self.desk.topology.receipts_queue(),
            Work::Checks => self.desk.topology.checks_queue(),
            Work::DeadLetters(source) => source.queue.clone(),
        };
        let opened = consumers.consume(&queue, self.prefetch).await;
        let mut consumer = opened.map_err(|source| Error::Consumer { queue, source })?;
        self.health.ready();
        self.work_on(consumer.as_mut()).await;
        Ok(())
    }

    async fn work_on(&self, consumer: &mut dyn Consumer) {
        let (settler, held) = (consumer.settler(), Held::new(&self.health));
        // A share each, so that one portion that is held up does not hold all that may be unsettled.
        let share = (usize::from(self.prefetch) / self.in_flight.max(1)).max(1);
        let mut waiting = VecDeque::new();
        let mut working = FuturesUnordered::new();
        loop {
            while working.len() < self.in_flight.max(1)
                && let Some(portion) = waiting.pop_front()
            {
                working.push(self.finish(portion, settler.as_ref(), &held));
            }
            let has_room = working.len() < self.in_flight.max(1);
            tokio::select! {
                biased;
                () = self.stop.soft() => break,
                Some(()) = working.next() => {}
                delivered = consumer.next(share), if has_room => waiting.extend(portions(delivered)),
            }
        }
        while working.next().await.is_some() {}
    }

    /// Works on one portion until it is done, or a stop comes while it is held up.
    async fn finish(&self, mut portion: Vec<Delivered>, settler: &dyn Settler, held: &Held<'_>) {
        let mut pause = PAUSE_MIN;
        let mut was_held = false;
        loop {
            let (positions, why) = match self.step(&portion).await {
                Progress::All => {
                    settler.settle(&handles(&portion), Settlement::Ack).await;
                    return held.over(was_held);
                }
                Progress::But(positions, why) => (positions, why),
            };
            tracing::warn!(work = ?self.work, held = positions.len(), %why, "cannot go on yet");
            held.by(was_held, &why);
            was_held = true;
            let (waiting, done) = split(portion, &positions);
            settler.settle(&handles(&done), Settlement::Ack).await;
            portion = waiting;
            tokio::select! {
                biased;
                () = self.stop.soft() => return,
                () = tokio::time::sleep(pause) => pause = PAUSE_MAX.min(pause * 2),
            }
        }
    }

    async fn step(&self, portion: &[Delivered]) -> Progress {
        match &self.work {
            Work::Receipts => match record(&self.desk, portion).await {
                record::Outcome::Recorded => Progress::All,
                record::Outcome::Held { positions, why } => Progress::But(positions, why),
            },
            Work::Checks => match check(&self.desk, portion).await {
                check::Outcome::Checked => Progress::All,
                check::Outcome::Held { positions, why } => Progress::But(positions, why),
            },
            Work::DeadLetters(source) => match take_in(&self.desk, source, portion).await {
                take_in::Outcome::TakenIn => Progress::All,
                take_in::Outcome::Held { positions, why } => Progress::But(positions, why),
            },
        }
    }
}

/// How many portions are held up; readiness says so until none is.
struct Held<'a> {
    portions: AtomicUsize,
    health: &'a Dependency,
}

impl<'a> Held<'a> {
    const fn new(health: &'a Dependency) -> Self {
        Self { portions: AtomicUsize::new(0), health }
    }

    /// A portion is held up, for the first time or again.
    fn by(&self, was_held: bool, why: &Error) {
        self.portions.fetch_add(usize::from(!was_held), Ordering::Relaxed);
        match why {
            // Whoever can mend it has to reach this process.
            Error::Full { .. } => self.health.ready_but(why.to_string()),
            _ => self.health.unready(why.to_string()),
        }
    }

    /// A portion is done.
    fn over(&self, was_held: bool) {
        let ended = usize::from(was_held);
        if self.portions.fetch_sub(ended, Ordering::Relaxed) == ended {
            self.health.ready();
        }
    }
}

fn handles(delivered: &[Delivered]) -> Vec<Handle> {
    delivered.iter().map(|one| one.handle).collect()
}

/// Whole deliveries, in order, up to [`PORTION_BYTES`] together; at least one each.
fn portions(delivered: Vec<Delivered>) -> Vec<Vec<Delivered>> {
    let mut portions: Vec<Vec<Delivered>> = Vec::new();
    let mut bytes = usize::MAX;
    for one in delivered {
        bytes = bytes.saturating_add(one.body.len());
        match portions.last_mut() {
            Some(last) if bytes <= PORTION_BYTES => last.push(one),
            _ => {
                bytes = one.body.len();
                portions.push(vec![one]);
            }
        }
    }
    portions
}

/// Those at `positions` (ascending), and the others.
fn split(portion: Vec<Delivered>, positions: &[usize]) -> (Vec<Delivered>, Vec<Delivered>) {
    let (held, done): (Vec<_>, Vec<_>) = portion.into_iter().enumerate().partition(|(at, _)| positions.binary_search(at).is_ok());
    let plain = |pairs: Vec<(usize, Delivered)>| pairs.into_iter().map(|(_, one)| one).collect();
    (plain(held), plain(done))
}

#[cfg(test)]
mod tests {
    use countersign_delivery::ports::broker::Properties;

    use super::*;

    fn delivered(tag: u64, bytes: usize) -> Delivered {
        Delivered {
            handle: Handle { generation: 1, tag },
            exchange: String::new(),
            routing_key: String::new(),
            redelivered: false,
            properties: Properties::default(),
            body: vec![0; bytes].into(),
        }
    }

    #[test]
    fn portions_keep_the_order_and_the_bound_and_lose_nothing() {
        let sizes = [10, PORTION_BYTES, 10, 10, PORTION_BYTES + 1, 0, 5];
        let all = sizes.iter().zip(1..).map(|(bytes, tag)| delivered(tag, *bytes)).collect();
        let tags: Vec<Vec<u64>> =
            portions(all).iter().map(|portion| portion.iter().map(|one| one.handle.tag).collect()).collect();
        assert_eq!(tags, [vec![1], vec![2], vec![3, 4], vec![5], vec![6, 7]]);
    }

    #[test]
    fn what_is_held_is_told_from_what_is_done() {
        let (held, done) = split((1..=4).map(|tag| delivered(tag, 0)).collect(), &[0, 2]);
        assert_eq!(handles(&held).iter().map(|handle| handle.tag).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(handles(&done).iter().map(|handle| handle.tag).collect::<Vec<_>>(), [2, 4]);
    }
}
