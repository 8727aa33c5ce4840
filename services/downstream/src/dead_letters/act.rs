//! What an operator does about dead letters: redrive or discard them, some at a time, until all are dealt with or something stops it.
//!
//! What can fail: this process or the connection, between the confirm of a copy and the ack of its letter (both queues have it then, and the
//! guard absorbs that); the broker, which does not confirm (the letter stays, and the act ends); the caller, who goes away (the act ends
//! after those that are under way).
//!
//! **Invariant:** a letter is acked only when its copy is confirmed, or when it is discarded by an operator who said why.

use std::time::Duration;

use countersign_boot::{Failpoint, failpoint};
use countersign_delivery::Timestamp;
use countersign_delivery::ports::broker::{Delivered, Publication, Published, Settlement};
use countersign_telemetry::names;
use countersign_wire::arrival;
use countersign_wire::dead_letter::{Redrive, redriven_copy};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::filter::Filter;
use super::scan::{Found, Keep, Sight};
use super::{DeadLetters, Problem, Queue, Turn};

/// Letters a second when nobody says how many, and at most.
pub const RATE_DEFAULT: u32 = 100;
/// See [`RATE_DEFAULT`].
pub const RATE_MAX: u32 = 10_000;
/// Most letters that are under way at a time.
const CHUNK: u32 = 100;
/// A chunk is what the rate allows in a part of a second: this is the part.
const CHUNKS_A_SECOND: u32 = 10;
/// Longest act: the broker closes the channel of a consumer that acknowledges nothing for half an hour.
const TIME_MAX: Duration = Duration::from_mins(10);
/// Largest epoch that callback believes.
const EPOCH_MAX: u32 = 1_000_000_000;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// To the work queue again.
    Redrive {
        /// So many a second.
        rate: u32,
    },
    /// Away.
    Discard,
}

/// An operator's order.
#[derive(Clone, Debug)]
pub struct Order {
    /// What.
    pub deed: Deed,
    /// Of which letters.
    pub filter: Filter,
    /// At most so many.
    pub limit: usize,
    /// Only say what would be done.
    pub validate_only: bool,
    /// Who ordered it.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// What became of one letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in the work queue again, in this epoch.
    Redriven(u32),
    /// It is gone.
    Discarded,
    /// It stays; why.
    Refused(String),
    /// The broker did not confirm its copy; how.
    NotConfirmed(String),
    /// It would be done; a redriven one would get this epoch.
    Selected(Option<u32>),
}

/// What is told of an act as it goes.
#[derive(Clone, Debug)]
pub enum Event {
    /// About one letter.
    Letter {
        /// Its message.
        message_id: String,
        /// What became of it.
        outcome: Outcome,
    },
    /// The last word.
    End(Summary),
}

/// How an act went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// As [`Sight::ready`].
    pub ready: u32,
    /// As [`Sight::seen`].
    pub seen: u32,
    /// As [`Sight::matched`].
    pub matched: u32,
    /// As [`Sight::partial`].
    pub partial: Option<String>,
    /// Redriven, discarded or selected.
    pub done: u32,
    /// Refused, or not confirmed.
    pub not_done: u32,
    /// Selected by the filter and not come to.
    pub left: u32,
    /// Why it ended early.
    pub stopped: Option<String>,
}

/// An act that has its letters and may begin.
pub struct Act {
    queue: Queue,
    order: Order,
    sight: Sight,
    _turn: Turn,
}

impl DeadLetters {
    /// Takes hold of the letters that an order is about.
    ///
    /// # Errors
    /// [`Problem`]: nothing has been done.
    pub async fn prepare(&self, queue: Queue, order: Order) -> Result<Act, Problem> {
        let bodies = matches!(order.deed, Deed::Redrive { .. }) && !order.validate_only;
        let keep = Keep { letters: order.limit, bodies };
        let (turn, sight) = self.hold(&queue, &order.filter, keep).await?;
        Ok(Act { queue, order, sight, _turn: turn })
    }

    /// Carries it out. Ends early when nobody listens to `events` any more.
    pub async fn carry_out(&self, mut act: Act, events: mpsc::Sender<Event>) {
        let found = std::mem::take(&mut act.sight.found);
        let mut progress = Progress { summary: act.begun(), acked: 0 };
        let stopped = self.by_chunks(&act, &found, &mut progress, &events).await.err();
        drop(found);
        let Progress { mut summary, acked } = progress;
        summary.stopped = stopped;
        summary.left = summary.matched.saturating_sub(summary.done + summary.not_done);
        tracing::info!(queue = %act.queue.name, by = %act.order.by, reason = %act.order.reason, ?summary, "an operator's act on dead letters");
        act.sight.end(&*self.consumers, &act.queue, acked).await;
        // Whoever is gone does not miss it.
        let _ = events.send(Event::End(summary)).await;
    }

    /// Err: why it ended early.
    async fn by_chunks(
        &self,
        act: &Act,
        found: &[Found],
        progress: &mut Progress,
        events: &mpsc::Sender<Event>,
    ) -> Result<(), String> {
        let (size, pause) = act.order.pace();
        let until = Instant::now() + TIME_MAX;
        let mut due = Instant::now();
        for chunk in found.chunks(size) {
            tokio::select! {
                biased;
                () = self.stop.soft() => return Err("this downstream is stopping".into()),
                () = events.closed() => return Err("whoever ordered it has gone".into()),
                () = sleep_until(due) => {}
            }
            if Instant::now() >= until {
                return Err(format!("one call acts for {} min at most", TIME_MAX.as_secs() / 60));
            }
            due += pause;
            let outcomes = self.one_chunk(act, chunk, progress).await;
            let unconfirmed = outcomes.iter().find_map(|outcome| match outcome {
                Outcome::NotConfirmed(how) => Some(how.clone()),
                _ => None,
            });
            for (found, outcome) in chunk.iter().zip(outcomes) {
                tell(act, found, &outcome, &mut progress.summary);
                // A caller that is gone is noticed before the next chunk.
                let _ = events.send(Event::Letter { message_id: found.letter.message_id.clone(), outcome }).await;
            }
            if let Some(how) = unconfirmed {
                return Err(how);
            }
        }
        Ok(())
    }

    /// Decides about each, publishes copies if any, and acks what is dealt with.
    async fn one_chunk(&self, act: &Act, chunk: &[Found], progress: &mut Progress) -> Vec<Outcome> {
        let now = self.clock.now();
        let plans: Vec<Plan> = chunk.iter().map(|found| self.plan(act, found, now)).collect();
        if act.order.validate_only {
            return plans.into_iter().map(Plan::unspent).collect();
        }
        let copies = plans.iter().filter_map(Plan::copy).cloned().collect::<Vec<_>>();
        let mut published = Vec::new().into_iter();
        if !copies.is_empty() {
            published = self.publisher.publish(copies).await.into_iter();
            failpoint(Failpoint::DownstreamAfterRedriveConfirm);
        }
        let mut outcomes = Vec::with_capacity(chunk.len());
        for (found, plan) in chunk.iter().zip(plans) {
            let outcome = plan.after(&mut published);
            if matches!(outcome, Outcome::Redriven(_) | Outcome::Discarded) {
                found.settler.settle(&[found.delivered.handle], Settlement::Ack).await;
                progress.acked += 1;
            }
            outcomes.push(outcome);
        }
        outcomes
    }

    fn plan(&self, act: &Act, found: &Found, now: Timestamp) -> Plan {
        let (Deed::Redrive { .. }, Some(work)) = (act.order.deed, &act.queue.work) else { return Plan::Discard };
        let epoch = act.sight.next_epoch(&found.letter);
        if let Err(why) = may_redrive(&found.delivered, epoch, self.memory_ms(work), now) {
            return Plan::Refuse(why);
        }
        let redrive = Redrive { epoch, by: &act.order.by, reason: &act.order.reason, at: now };
        Plan::Redrive(epoch, Box::new(redriven_copy(&found.delivered, work.clone(), redrive)))
    }
}

/// What the loop counts.
struct Progress {
    summary: Summary,
    acked: u32,
}

impl Act {
    fn begun(&self) -> Summary {
        let Sight { ready, seen, matched, partial, .. } = &self.sight;
        Summary { ready: *ready, seen: *seen, matched: *matched, partial: partial.clone(), ..Summary::default() }
    }
}

impl Order {
    /// How many at a time, and how long from one chunk to the next.
    fn pace(&self) -> (usize, Duration) {
        match self.deed {
            Deed::Redrive { rate } if !self.validate_only => {
                let size = (rate / CHUNKS_A_SECOND).clamp(1, CHUNK);
                (usize::try_from(size).unwrap_or(1), Duration::from_secs(1) * size / rate.max(1))
            }
            _ => (usize::try_from(CHUNK).unwrap_or(1), Duration::ZERO),
        }
    }
}

/// What is decided about one letter.
enum Plan {
    Redrive(u32, Box<Publication>),
    Discard,
    Refuse(String),
}

impl Plan {
    const fn copy(&self) -> Option<&Publication> {
        match self {
            Self::Redrive(_, copy) => Some(copy),
            _ => None,
        }
    }

    /// Without carrying it out.
    fn unspent(self) -> Outcome {
        match self {
            Self::Redrive(epoch, _) => Outcome::Selected(Some(epoch)),
            Self::Discard => Outcome::Selected(None),
            Self::Refuse(why) => Outcome::Refused(why),
        }
    }

    /// After the copies were published; takes this one's answer, if it has one.
    fn after(self, published: &mut impl Iterator<Item = Published>) -> Outcome {
        let epoch = match self {
            Self::Redrive(epoch, _) => epoch,
            Self::Discard => return Outcome::Discarded,
            Self::Refuse(why) => return Outcome::Refused(why),
        };
        match published.next().unwrap_or(Published::Unknown) {
            Published::Confirmed => Outcome::Redriven(epoch),
            Published::Nacked => {
                Outcome::NotConfirmed("the broker refused the copy: the work queue is full, or the broker is in trouble".into())
            }
            Published::Returned { reason } => {
                Outcome::NotConfirmed(format!("there is no work queue: {reason}; countersign topology apply"))
            }
            Published::Unknown => Outcome::NotConfirmed(
                "the broker did not confirm the copy in time: it may be in the work queue as well, which the guard absorbs"
                    .into(),
            ),
        }
    }
}

/// Whether a letter can be handled again at all. Err: why not, and what to do instead. `memory_ms` of 0 is a guard that never forgets.
fn may_redrive(delivered: &Delivered, epoch: u32, memory_ms: u64, now: Timestamp) -> Result<(), String> {
    let read = arrival::read(delivered);
    let arrival = read.map_err(|error| format!("it cannot be read ({error}): send the event anew, or discard it"))?;
    if epoch > EPOCH_MAX {
        return Err("its epoch is nonsense: send the event anew, or discard it".into());
    }
    if arrival.effect_epoch == 0 && memory_ms > 0 && now.millis_since(arrival.sent_at) > memory_ms {
        return Err(format!(
            "it is older than the guard remembers ({memory_ms} ms) and would be refused as stale: if you know that it had no effect, send it \
             anew as another message"
        ));
    }
    Ok(())
}

/// Logs and counts one letter, by its identity; never what is in it.
fn tell(act: &Act, found: &Found, outcome: &Outcome, summary: &mut Summary) {
    let (word, done) = match outcome {
        Outcome::Redriven(_) | Outcome::Discarded | Outcome::Selected(_) => ("done", true),
        Outcome::Refused(_) => ("refused", false),
        Outcome::NotConfirmed(_) => ("not_confirmed", false),
    };
    *(if done { &mut summary.done } else { &mut summary.not_done }) += 1;
    if act.order.validate_only {
        return;
    }
    let deed = match act.order.deed {
        Deed::Redrive { .. } => "redrive_dead_letter",
        Deed::Discard => "discard_dead_letter",
    };
    metrics::counter!(names::OPERATOR_ACTS_TOTAL, "act" => deed, "result" => word).increment(1);
    let (letter, Order { by, reason, .. }) = (&found.letter, &act.order);
    tracing::info!(
        message_id = %letter.message_id, upstream = %letter.upstream, fingerprint = %letter.fingerprint, kind = %letter.kind,
        died_of = %letter.reason, queue = %act.queue.name, deed, ?outcome, by, reason, "an operator's act on a dead letter"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(deed: Deed, validate_only: bool) -> Order {
        Order { deed, filter: Filter::default(), limit: 10, validate_only, by: "ann".into(), reason: String::new() }
    }

    #[test]
    fn chunks_keep_to_the_rate() {
        for rate in [1, 3, 10, 99, 100, 1_000, RATE_MAX] {
            let (size, pause) = order(Deed::Redrive { rate }, false).pace();
            let a_second = f64::from(u32::try_from(size).unwrap()) / pause.as_secs_f64();
            assert!((a_second / f64::from(rate) - 1.0).abs() < 0.01, "{rate} a second became {a_second}");
            assert!(size <= 100 && pause <= Duration::from_secs(1), "{rate}: {size} every {pause:?}");
        }
        assert_eq!(order(Deed::Redrive { rate: 1 }, true).pace().1, Duration::ZERO, "a dry run does not wait");
        assert_eq!(order(Deed::Discard, false).pace().1, Duration::ZERO);
    }
}
