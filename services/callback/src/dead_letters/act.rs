//! What an operator does about dead letters: redrive or discard them, some at a time, until all are dealt with or something stops it.
//!
//! What can fail: see `redrive`; the caller, who goes away (the act ends after those that are under way, and the same order goes on from
//! there). An act deals only with letters that were there when it began: what dies again on its way waits for the next one.
//!
//! **Invariant (I11):** the row of an order in the audit is begun before any letter is touched, and ended before its last word is told.

use std::time::Duration;

use countersign_boot::Stop;
use countersign_delivery::ports::audit::{Act as Ordered, ActResult};
use countersign_delivery::ports::dead_letters::Closing;
use countersign_telemetry::{names, with_sources};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::redrive::redrive;
use super::{Filter, Opened, Page, search};
use crate::desk::Desk;
use crate::error::Error;
use crate::operate::row::Row;

/// Letters a second when nobody says how many, and at most.
pub const RATE_DEFAULT: u32 = 100;
/// See [`RATE_DEFAULT`].
pub const RATE_MAX: u32 = 10_000;
/// Most letters that one act deals with.
pub const LETTERS_MAX: u32 = 10_000;
/// Most letters that are under way at a time.
const CHUNK: u32 = 100;
/// A chunk is what the rate allows in a part of a second: this is the part.
const CHUNKS_A_SECOND: u32 = 10;
/// Most bytes of bodies that are under way at a time; a larger one goes alone.
const CHUNK_BYTES: u64 = 16 * 1024 * 1024;
/// Longest act.
const TIME_MAX: Duration = Duration::from_mins(10);

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
    /// It is put away for good.
    Discarded,
    /// Its delivery is done meanwhile: the letter is settled.
    AlreadyDone,
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
    /// Redriven, discarded, settled or selected.
    pub done: u32,
    /// Refused, or not confirmed.
    pub not_done: u32,
    /// Whether there may be more of what the filter selects.
    pub more: bool,
    /// Why it ended early.
    pub stopped: Option<String>,
}

/// Carries an order out, and ends its row in the audit; a dry run has none. Ends early when nobody listens to `events` any more.
pub async fn carry_out(desk: Desk, order: Order, row: Option<Row>, stop: Stop, events: mpsc::Sender<Event>) {
    let mut act = Act { desk, order, stop, events, summary: Summary::default() };
    act.summary.stopped = act.by_chunks().await.err();
    act.summary.more |= act.summary.stopped.is_some();
    let (summary, Order { filter, by, reason, .. }) = (&act.summary, &act.order);
    tracing::info!(place = ?filter.stored.place, by, reason, ?summary, "an operator's act on dead letters");
    if let Some(row) = row {
        let (result, detail) = act.ended();
        row.end(&act.desk, result, &detail).await;
    }
    // Whoever is gone does not miss it.
    let _ = act.events.send(Event::End(act.summary)).await;
}

/// An act that is under way.
struct Act {
    desk: Desk,
    order: Order,
    stop: Stop,
    events: mpsc::Sender<Event>,
    summary: Summary,
}

impl Act {
    /// Err: why it ended early.
    async fn by_chunks(&mut self) -> Result<(), String> {
        let (size, pause) = self.order.pace();
        let until = Instant::now() + TIME_MAX;
        let mut due = Instant::now();
        let latest = self.desk.letters.latest().await.map_err(|error| words(&error.into()))?;
        let (mut next, mut left) = (Some(0), self.order.limit);
        while let Some(after) = next {
            tokio::select! {
                biased;
                () = self.stop.soft() => return Err("this callback is stopping".into()),
                () = self.events.closed() => return Err("whoever ordered it has gone".into()),
                () = sleep_until(due) => {}
            }
            if Instant::now() >= until {
                return Err(format!("one call acts for {} min at most", TIME_MAX.as_secs() / 60));
            }
            due += pause;
            let page = search(&self.desk, &self.order.filter, after, size.min(left)).await;
            let page = chunk(page.map_err(|error| words(&error.into()))?, latest);
            left -= page.letters.len();
            next = page.next;
            self.one_chunk(page.letters).await?;
            if left == 0 {
                self.summary.more = next.is_some();
                return Ok(());
            }
        }
        Ok(())
    }

    /// As the audit has it.
    fn ended(&self) -> (ActResult, String) {
        let Summary { done, not_done, more, stopped } = &self.summary;
        let result = match (stopped, done, not_done) {
            (Some(_), ..) => ActResult::Failed,
            (None, 0, 1..) => ActResult::Refused,
            (None, ..) => ActResult::Done,
        };
        let words = match self.order.deed {
            Deed::Redrive { .. } => "redriven or settled",
            Deed::Discard => "discarded",
        };
        let more = if *more { ", there may be more" } else { "" };
        let stopped = stopped.as_ref().map(|why| format!("; it ended early: {why}")).unwrap_or_default();
        (result, format!("{done} {words}, {not_done} not{more}{stopped}"))
    }

    async fn one_chunk(&mut self, letters: Vec<Opened>) -> Result<(), String> {
        if letters.is_empty() {
            return Ok(());
        }
        let (outcomes, trouble) = self.dispose(&letters).await.map_err(|error| words(&error))?;
        for (opened, outcome) in letters.iter().zip(outcomes) {
            tell_act(&self.order, opened, &outcome, &mut self.summary);
            // A caller that is gone is noticed before the next chunk.
            let _ = self.events.send(Event::Letter { message_id: opened.read.message_id.clone(), outcome }).await;
        }
        trouble.map_or(Ok(()), |error| Err(words(&error)))
    }

    /// What became of each, and what came between afterwards, if anything.
    async fn dispose(&self, letters: &[Opened]) -> Result<(Vec<Outcome>, Option<Error>), Error> {
        let Order { deed, validate_only, by, reason, .. } = &self.order;
        match deed {
            Deed::Redrive { .. } => Ok(redrive(&self.desk, letters, &self.order).await?),
            Deed::Discard if *validate_only => Ok((vec![Outcome::Selected(None); letters.len()], None)),
            Deed::Discard => {
                let closing = Closing { by: by.clone(), reason: reason.clone(), epoch: None };
                let closed: Vec<_> = letters.iter().map(|opened| (opened.letter.number, closing.clone())).collect();
                self.desk.letters.close(&closed).await?;
                Ok((vec![Outcome::Discarded; letters.len()], None))
            }
        }
    }
}

/// As many of a page as may be under way at a time, and were there when the act began.
fn chunk(page: Page, latest: u64) -> Page {
    let Page { mut letters, mut next } = page;
    let there = letters.iter().take_while(|opened| opened.letter.number <= latest).count();
    if there < letters.len() {
        letters.truncate(there);
        next = None;
    }
    let mut bytes = 0_u64;
    let fits = letters.iter().take_while(|opened| {
        let first = bytes == 0;
        bytes = bytes.saturating_add(opened.letter.body_bytes);
        first || bytes <= CHUNK_BYTES
    });
    let fits = fits.count();
    if fits < letters.len() {
        letters.truncate(fits);
        next = letters.last().map(|opened| opened.letter.number);
    }
    Page { letters, next }
}

fn words(error: &Error) -> String {
    with_sources(error)
}

impl Deed {
    /// The word for an order of it.
    #[must_use]
    pub const fn act(self) -> Ordered {
        match self {
            Self::Redrive { .. } => Ordered::RedriveDeadLetters,
            Self::Discard => Ordered::DiscardDeadLetters,
        }
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

/// The end of an act on one letter: counted and logged by its identity; never what is in it.
fn tell_act(order: &Order, opened: &Opened, outcome: &Outcome, summary: &mut Summary) {
    let (word, done) = match outcome {
        Outcome::Redriven(_) | Outcome::Discarded | Outcome::Selected(_) => ("done", true),
        Outcome::AlreadyDone => ("already_done", true),
        Outcome::Refused(_) => ("refused", false),
        Outcome::NotConfirmed(_) => ("not_confirmed", false),
    };
    *(if done { &mut summary.done } else { &mut summary.not_done }) += 1;
    if order.validate_only {
        return;
    }
    let deed = match order.deed {
        Deed::Redrive { .. } => "redrive_dead_letter",
        Deed::Discard => "discard_dead_letter",
    };
    metrics::counter!(names::OPERATOR_ACTS_TOTAL, "act" => deed, "result" => word).increment(1);
    let (letter, Order { by, reason, .. }) = (&opened.read, order);
    let subscription = opened.letter.subscription.as_ref().map(tracing::field::display);
    tracing::info!(
        message_id = %letter.message_id, upstream = %letter.upstream, fingerprint = %letter.fingerprint, kind = %letter.kind,
        died_of = %letter.reason, subscription, deed, ?outcome, by, reason, "an operator's act on a dead letter"
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
