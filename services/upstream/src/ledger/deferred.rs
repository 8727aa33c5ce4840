//! What waits to be published again, by pages of neighbouring seqs: a million of them take a few megabytes.
//!
//! Nothing of a message is kept but its seq, as one bit; the table has the rest. A page knows for all of its seqs together what is to be
//! published, how often that was tried, when it is due, and the places among `max_unconfirmed` that they hold.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use countersign_delivery::Seq;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use crate::ledger::{Again, Entry, Ticket, What};

/// Seqs that one page spans: as many as are read and published at a time.
const SPAN: u16 = 256;
/// What is due so shortly after the others of a page goes with them.
const CLOSE: Duration = Duration::from_millis(100);
/// Callers that have stopped waiting are looked for when there are so many callers more than after the last look.
const CALLERS: usize = 1024;

/// One message that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub seq: Seq,
    pub again: Again,
    pub entry: Entry,
}

/// All that wait.
#[derive(Debug)]
pub(super) struct Deferred {
    pages: BTreeMap<PageId, Page>,
    due: BTreeSet<(Instant, PageId)>,
    count: usize,
    /// Bodies of one page, unless a single one is larger.
    page_bytes: usize,
    /// Those who may still wait for their confirm.
    callers: BTreeMap<Seq, oneshot::Sender<()>>,
    /// How many callers make it worth while to look for those who are gone.
    look_at: usize,
}

/// Which span of seqs, and which of its pages.
type PageId = (u64, u64);

#[derive(Debug)]
struct Page {
    what: What,
    tries: u32,
    due: Instant,
    /// Since when the oldest is unsettled.
    since: Instant,
    /// One bit for each seq of the span.
    seqs: [u64; 4],
    bytes: usize,
    /// One for each seq; none where messages hold no places.
    places: Option<OwnedSemaphorePermit>,
}

impl Deferred {
    pub(super) fn new(page_bytes: usize) -> Self {
        let (pages, callers) = (BTreeMap::new(), BTreeMap::new());
        Self { pages, due: BTreeSet::new(), count: 0, page_bytes, callers, look_at: CALLERS }
    }

    /// How many wait.
    pub(super) const fn len(&self) -> usize {
        self.count
    }

    /// Since when the oldest page's oldest is unsettled.
    pub(super) fn since(&self) -> Option<Instant> {
        self.pages.first_key_value().map(|(_, page)| page.since)
    }

    /// When something is due next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    pub(super) fn contains(&self, seq: Seq) -> bool {
        self.page_with(seq).is_some()
    }

    /// Adds one, due at `at`, or a moment earlier with others.
    pub(super) fn put(&mut self, waiting: Waiting, at: Instant) {
        let Waiting { seq, again: Again { what, bytes }, entry } = waiting;
        let Entry { since, tries, ticket: Ticket { settled, place } } = entry;
        if let Some(settled) = settled {
            self.keep(seq, settled);
        }
        self.count += 1;
        let fits = |page: &Page| {
            let alike = page.what == what && page.tries == tries && page.places.is_some() == place.is_some();
            // What was not tried is due at once, whenever it came.
            let close = tries == 0 || at <= page.due + CLOSE;
            alike && close && page.bytes + bytes <= self.page_bytes
        };
        let span = seq.0 / u64::from(SPAN);
        if let Some((_, page)) = self.pages.range_mut((span, 0)..=(span, u64::MAX)).find(|(_, page)| fits(page)) {
            page.mark(seq);
            page.bytes += bytes;
            page.since = page.since.min(since);
            if let (Some(places), Some(place)) = (&mut page.places, place) {
                places.merge(place);
            }
            return;
        }
        let last = self.pages.range((span, 0)..=(span, u64::MAX)).next_back();
        let id = (span, last.map_or(0, |((_, number), _)| number + 1));
        let mut page = Page { what, tries, due: at, since, seqs: [0; _], bytes, places: place };
        page.mark(seq);
        self.pages.insert(id, page);
        self.due.insert((at, id));
    }

    /// Takes pages that are due, oldest first: at most [`SPAN`] seqs and bodies of one page altogether, but always one page.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Waiting> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some((at, id)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            let Some(page) = self.pages.get(&id) else { break };
            let too_many = taken.len() + page.len() > usize::from(SPAN) || bytes + page.bytes > self.page_bytes;
            if too_many && !taken.is_empty() {
                break;
            }
            bytes += page.bytes;
            self.due.remove(&(at, id));
            taken.extend(self.open(id));
        }
        taken
    }

    /// Takes one out, wherever it is.
    pub(super) fn remove(&mut self, seq: Seq) -> Option<Ticket> {
        let id = self.page_with(seq)?;
        let settled = self.callers.remove(&seq);
        let page = self.pages.get_mut(&id)?;
        self.count -= 1;
        page.bytes -= page.bytes / page.len().max(1);
        page.unmark(seq);
        let place = page.places.as_mut().and_then(|places| places.split(1));
        if page.len() == 0 {
            let due = page.due;
            self.due.remove(&(due, id));
            self.pages.remove(&id);
        }
        Some(Ticket { settled, place })
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.page_bytes);
    }

    fn open(&mut self, id: PageId) -> Vec<Waiting> {
        let Some(mut page) = self.pages.remove(&id) else { return Vec::new() };
        self.count -= page.len();
        let again = Again { what: page.what, bytes: page.bytes.div_ceil(page.len().max(1)) };
        let seqs: Vec<Seq> = page.seqs(id.0).collect();
        let waiting = seqs.into_iter().map(|seq| {
            let place = page.places.as_mut().and_then(|places| places.split(1));
            let ticket = Ticket { settled: self.callers.remove(&seq), place };
            Waiting { seq, again, entry: Entry { since: page.since, tries: page.tries, ticket } }
        });
        waiting.collect()
    }

    fn page_with(&self, seq: Seq) -> Option<PageId> {
        let span = seq.0 / u64::from(SPAN);
        let mut pages = self.pages.range((span, 0)..=(span, u64::MAX));
        pages.find(|(_, page)| page.has(seq)).map(|(id, _)| *id)
    }

    /// Keeps who waits for the confirm, and forgets those who have stopped, now and then.
    fn keep(&mut self, seq: Seq, settled: oneshot::Sender<()>) {
        if settled.is_closed() {
            return;
        }
        self.callers.insert(seq, settled);
        if self.callers.len() >= self.look_at {
            self.callers.retain(|_, settled| !settled.is_closed());
            self.look_at = self.callers.len() * 2 + CALLERS;
        }
    }
}

impl Page {
    fn len(&self) -> usize {
        self.seqs.iter().map(|word| word.count_ones() as usize).sum()
    }

    fn bit(seq: Seq) -> (usize, u64) {
        let within = seq.0 % u64::from(SPAN);
        ((within / 64) as usize, 1 << (within % 64))
    }

    fn has(&self, seq: Seq) -> bool {
        let (word, bit) = Self::bit(seq);
        self.seqs[word] & bit != 0
    }

    fn mark(&mut self, seq: Seq) {
        let (word, bit) = Self::bit(seq);
        self.seqs[word] |= bit;
    }

    fn unmark(&mut self, seq: Seq) {
        let (word, bit) = Self::bit(seq);
        self.seqs[word] &= !bit;
    }

    /// Its seqs, ascending, when it is a page of this span.
    fn seqs(&self, span: u64) -> impl Iterator<Item = Seq> {
        let first = span * u64::from(SPAN);
        (first..first + u64::from(SPAN)).map(Seq).filter(|seq| self.has(*seq))
    }
}

#[cfg(test)]
impl Deferred {
    pub(super) fn callers(&self) -> usize {
        self.callers.len()
    }

    pub(super) fn pages(&self) -> usize {
        self.pages.len()
    }
}
