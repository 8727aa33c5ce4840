//! One look into a queue: everything is taken and nothing acknowledged, so that it all goes back when the look ends.
//!
//! Windows of [`WINDOW`] messages, each a consumer of its own, bound what the broker hands over before it has been looked at. A look that
//! does not come to the end of the queue says why.
//!
//! **Invariant:** a look settles nothing. What nobody acted on goes back when [`Sight`] is dropped, whatever ends it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use countersign_delivery::ports::broker::{Consumer, Consumers, Delivered, Settler};
use countersign_wire::dead_letter::{self, DeadLetter};
use tokio::time::{Instant, timeout};

use super::filter::Filter;
use super::{Problem, Queue};

/// Messages of one window.
pub const WINDOW: u16 = 100;
/// Most messages looked at; so many are held at a time, and as many windows as that takes.
pub const SEEN_MAX: u32 = 10_000;
/// Longest look.
const TIME_MAX: Duration = Duration::from_secs(5);
/// How long a message may take that should be there.
const QUIET: Duration = Duration::from_secs(2);
/// Most bytes of bodies that are kept for an act.
pub const KEPT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long to wait until what was held is back.
const BACK: Duration = Duration::from_secs(1);
/// Between two looks at whether it is.
const BACK_LOOK: Duration = Duration::from_millis(10);

/// What is kept of the letters that the filter selects.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// The first so many.
    pub letters: usize,
    /// Whether with their bodies; beyond [`KEPT_BYTES_MAX`] of them the look ends.
    pub bodies: bool,
}

/// A letter that was kept.
pub struct Found {
    /// As it can be read.
    pub letter: DeadLetter,
    /// As it came; its body only if bodies are kept.
    pub delivered: Delivered,
    /// Settles it.
    pub settler: Arc<dyn Settler>,
}

/// What a look has seen.
pub struct Sight {
    /// Messages that lay ready when it began.
    pub ready: u32,
    /// Messages it has looked at.
    pub seen: u32,
    /// Those that the filter selects.
    pub matched: u32,
    /// Why it has not seen everything.
    pub partial: Option<String>,
    /// Those that are kept, in the queue's order.
    pub found: Vec<Found>,
    kept_bytes: usize,
    /// The largest epoch of any copy of a message that was seen, by id and fingerprint.
    epochs: HashMap<(String, String), u32>,
    /// Never locked: the mutex lets a sight be shared, which a consumer alone cannot be.
    held: Mutex<Vec<Box<dyn Consumer>>>,
}

/// Looks from the head of the queue on.
///
/// # Errors
/// [`Problem::Away`] when the broker is away, [`Problem::Lost`] when it goes away meanwhile: nothing has changed then.
pub async fn look(consumers: &dyn Consumers, queue: &Queue, filter: &Filter, keep: Keep) -> Result<Sight, Problem> {
    let ready = consumers.ready(&queue.name).await.map_err(Problem::Away)?;
    let mut sight = Sight {
        ready,
        seen: 0,
        matched: 0,
        partial: None,
        found: Vec::new(),
        kept_bytes: 0,
        epochs: HashMap::new(),
        held: Mutex::default(),
    };
    let (goal, until) = (ready.min(SEEN_MAX), Instant::now() + TIME_MAX);
    while sight.seen < goal && sight.partial.is_none() {
        let mut window = consumers.consume(&queue.name, WINDOW).await.map_err(Problem::Away)?;
        let looked = sight.look_through(window.as_mut(), goal, until, filter, keep).await;
        sight.held.get_mut().unwrap_or_else(PoisonError::into_inner).push(window);
        looked?;
    }
    if sight.partial.is_none() && ready > SEEN_MAX {
        sight.partial = Some(format!("one look takes {SEEN_MAX} letters from the head of the queue"));
    }
    Ok(sight)
}

impl Sight {
    async fn look_through(
        &mut self,
        window: &mut dyn Consumer,
        goal: u32,
        until: Instant,
        filter: &Filter,
        keep: Keep,
    ) -> Result<(), Problem> {
        let settler = window.settler();
        let (mut taken, mut generation) = (0, None);
        while taken < u32::from(WINDOW) && self.seen < goal && self.partial.is_none() {
            let patience = QUIET.min(until.saturating_duration_since(Instant::now()));
            let most = usize::try_from((u32::from(WINDOW) - taken).min(goal - self.seen)).unwrap_or(1);
            let Ok(batch) = timeout(patience, window.next(most)).await else {
                self.partial = Some(self.why_nothing_came(until));
                return Ok(());
            };
            for delivered in batch {
                // Under another generation the broker has put back what came before, and hands it out once more.
                if *generation.get_or_insert(delivered.handle.generation) != delivered.handle.generation {
                    return Err(Problem::Lost);
                }
                taken += 1;
                self.take_in(delivered, &settler, filter, keep);
            }
        }
        Ok(())
    }

    fn why_nothing_came(&self, until: Instant) -> String {
        if Instant::now() >= until {
            return format!("one look takes {} s", TIME_MAX.as_secs());
        }
        let missing = self.ready.saturating_sub(self.seen);
        format!("{missing} letters did not come: somebody else holds them, or has taken them meanwhile")
    }

    fn take_in(&mut self, mut delivered: Delivered, settler: &Arc<dyn Settler>, filter: &Filter, keep: Keep) {
        let letter = dead_letter::read(&delivered);
        self.seen += 1;
        let epoch = self.epochs.entry(key(&letter)).or_default();
        *epoch = letter.attempt.epoch.max(*epoch);
        if !filter.selects(&letter) {
            return;
        }
        self.matched += 1;
        if self.found.len() >= keep.letters {
            return;
        }
        if keep.bodies {
            self.kept_bytes += letter.body_bytes;
            if self.kept_bytes > KEPT_BYTES_MAX && !self.found.is_empty() {
                self.partial = Some(format!("one look keeps {KEPT_BYTES_MAX} bytes of bodies"));
                return;
            }
        } else {
            delivered.body.clear();
        }
        self.found.push(Found { letter, delivered, settler: settler.clone() });
    }

    /// The epoch for a message that is sent to its work queue again: above that of every copy that was seen. Each epoch that ended badly has
    /// left a copy here, callback's included, so the guard counts this one's starts afresh.
    #[must_use]
    pub fn next_epoch(&self, letter: &DeadLetter) -> u32 {
        self.epochs.get(&key(letter)).copied().unwrap_or(letter.attempt.epoch).saturating_add(1)
    }

    /// Gives back what is held, `settled` messages fewer than were there, and waits a moment until it is, so that the next look sees it.
    pub async fn end(self, consumers: &dyn Consumers, queue: &Queue, settled: u32) {
        let (seen, expected) = (self.seen, self.ready.saturating_sub(settled));
        drop(self);
        let back = async {
            while consumers.ready(&queue.name).await.is_ok_and(|ready| ready < expected) {
                tokio::time::sleep(BACK_LOOK).await;
            }
        };
        if seen > 0 && timeout(BACK, back).await.is_err() {
            tracing::debug!(queue = %queue.name, expected, "what was looked at is not back yet");
        }
    }
}

fn key(letter: &DeadLetter) -> (String, String) {
    (letter.message_id.clone(), letter.fingerprint.clone())
}
