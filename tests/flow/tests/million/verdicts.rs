//! The books laid side by side: what was lost, what was sent again, and how well the one fits the other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_delivery::MessageId;

use super::plan::Fate;

/// What the books say, each from its own source.
#[derive(Debug)]
pub(super) struct Books {
    /// Each message that was sent and its fate, by the sender and the seed.
    pub(super) sent: BTreeMap<MessageId, Fate>,
    /// What did not reach the work queue, by the broker.
    pub(super) lost: BTreeSet<MessageId>,
    /// Whose receipts reached nobody, by those receipts.
    pub(super) unsigned: BTreeSet<MessageId>,
    /// The tries that brought each message's effects, by the handler.
    pub(super) effects: BTreeMap<MessageId, Vec<u32>>,
    /// The latest try of each message, by callback.
    pub(super) attempts: BTreeMap<MessageId, u32>,
}

/// What is printed.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) seed: u64,
    pub(super) database: &'static str,
    pub(super) took: Duration,
    /// Looks after which callback went on waiting.
    pub(super) waits: f64,
    sent: usize,
    lost: usize,
    unsigned: usize,
    slow: usize,
    resent: usize,
    resent_rightly: usize,
    lost_resent: usize,
}

impl Books {
    fn of(&self, fate: Fate) -> BTreeSet<MessageId> {
        self.sent.iter().filter(|(_, drawn)| **drawn == fate).map(|(id, _)| *id).collect()
    }

    /// Messages that callback had sent again.
    pub(super) fn resent(&self) -> BTreeSet<MessageId> {
        self.attempts.iter().filter(|(_, attempt)| **attempt > 1).map(|(id, _)| *id).collect()
    }

    pub(super) fn table(&self, seed: u64, database: &'static str, took: Duration, waits: f64) -> Table {
        let resent = self.resent();
        Table {
            seed,
            database,
            took,
            waits,
            sent: self.sent.len(),
            lost: self.lost.len(),
            unsigned: self.unsigned.len(),
            slow: self.of(Fate::Slow).len(),
            resent_rightly: resent.iter().filter(|id| self.lost.contains(id) || self.unsigned.contains(id)).count(),
            lost_resent: self.lost.intersection(&resent).count(),
            resent: resent.len(),
        }
    }

    /// The faults are those that were drawn, every message had its effect once, and what was sent again is what was lost, once.
    pub(super) fn agree(&self) -> anyhow::Result<()> {
        same("lost by the broker's book", &self.lost, &self.of(Fate::Lost))?;
        same("without a receipt by those receipts", &self.unsigned, &self.of(Fate::Unsigned))?;
        same("known to callback", &self.attempts.keys().copied().collect(), &self.sent.keys().copied().collect())?;
        ensure!(self.effects.len() == self.sent.len(), "{} of {} had effects", self.effects.len(), self.sent.len());
        for (id, fate) in &self.sent {
            let (effects, attempt) = (self.effects.get(id).context("a message had no effect")?, self.attempts[id]);
            let [brought_by, latest] = fate.tries();
            ensure!(*effects == [brought_by], "{id} ({fate:?}) had its effects by the tries {effects:?}");
            ensure!(attempt == latest, "{id} ({fate:?}) came to its try {attempt}");
        }
        Ok(())
    }
}

fn same(what: &str, found: &BTreeSet<MessageId>, wanted: &BTreeSet<MessageId>) -> anyhow::Result<()> {
    let odd: Vec<_> = found.symmetric_difference(wanted).take(5).collect();
    ensure!(odd.is_empty(), "{} are {what}, not {}: {odd:?} and others", found.len(), wanted.len());
    Ok(())
}

impl Table {
    /// Whether callback can have looked at every message that was not signed in time, and waited.
    pub(super) fn is_late(&self) -> bool {
        self.waits >= count(self.lost + self.unsigned + self.slow)
    }

    /// Of what was sent again, the share that was lost, or whose receipt was.
    pub(super) fn precision(&self) -> f64 {
        share(self.resent_rightly, self.resent)
    }

    /// Of what was lost, the share that was sent again.
    pub(super) fn recall(&self) -> f64 {
        share(self.lost_resent, self.lost)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, database, sent, lost, unsigned, slow, resent, .. } = self;
        let seconds = self.took.as_secs_f64();
        writeln!(out, "sent           {sent:>9}")?;
        writeln!(out, "lost           {lost:>9}")?;
        writeln!(out, "receipts lost  {unsigned:>9}")?;
        writeln!(out, "slow           {slow:>9}")?;
        writeln!(out, "waits          {:>9}", self.waits)?;
        writeln!(out, "resent         {resent:>9}")?;
        writeln!(out, "precision      {:>9.6}   ({} of {resent} resent)", self.precision(), self.resent_rightly)?;
        writeln!(out, "recall         {:>9.6}   ({} of {lost} lost)", self.recall(), self.lost_resent)?;
        writeln!(out, "throughput     {:>9.0}   messages a second, {database}", count(*sent) / seconds)?;
        writeln!(out, "duration       {seconds:>9.1}   seconds, to the last effect")?;
        write!(out, "seed           {seed:>9}")
    }
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 1.0 } else { count(part) / count(whole) }
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

/// Two hundred messages whose books agree, fifty of each fate.
fn sound() -> anyhow::Result<Books> {
    const FATES: [Fate; 4] = [Fate::Good, Fate::Lost, Fate::Unsigned, Fate::Slow];
    let id = |number: u32| MessageId::parse(&format!("00000000-0000-7000-8000-{number:012x}"));
    let (mut sent, mut effects, mut attempts) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (number, fate) in (0..200).zip(FATES.into_iter().cycle()) {
        let (id, [brought_by, latest]) = (id(number)?, fate.tries());
        sent.insert(id, fate);
        effects.insert(id, vec![brought_by]);
        attempts.insert(id, latest);
    }
    let of = |fate| sent.iter().filter(|(_, drawn)| **drawn == fate).map(|(id, _)| *id).collect();
    Ok(Books { lost: of(Fate::Lost), unsigned: of(Fate::Unsigned), sent, effects, attempts })
}

/// What is damaged at the first message of a fate, and the precision and recall that are left.
type Damage = (&'static str, Fate, fn(&mut Books, MessageId), f64, f64);

const DAMAGES: [Damage; 8] = [
    ("a good one is sent again", Fate::Good, |books, id| *books.attempts.entry(id).or_default() = 2, 100.0 / 101.0, 1.0),
    ("a slow one is sent again", Fate::Slow, |books, id| *books.attempts.entry(id).or_default() = 2, 100.0 / 101.0, 1.0),
    ("a lost one is not", Fate::Lost, |books, id| *books.attempts.entry(id).or_default() = 1, 1.0, 49.0 / 50.0),
    ("a lost one is, twice", Fate::Lost, |books, id| *books.attempts.entry(id).or_default() = 3, 1.0, 1.0),
    ("there is a second effect", Fate::Unsigned, |books, id| books.effects.entry(id).or_default().push(2), 1.0, 1.0),
    ("there is no effect", Fate::Good, |books, id| books.effects.entry(id).or_default().clear(), 1.0, 1.0),
    ("a fault did not happen", Fate::Lost, |books, id| books.lost.retain(|lost| *lost != id), 99.0 / 100.0, 1.0),
    ("a fault hit another one", Fate::Slow, |books, id| books.unsigned.extend([id]), 1.0, 1.0),
];

#[test]
fn books_that_disagree_are_found_out() -> anyhow::Result<()> {
    sound()?.agree()?;
    for (what, fate, damage, precision, recall) in DAMAGES {
        let mut books = sound()?;
        let victim = *books.of(fate).first().context("none of this fate")?;
        damage(&mut books, victim);
        let table = books.table(0, "none", Duration::from_secs(1), 0.0);
        ensure!(books.agree().is_err(), "nobody noticed that {what}");
        let found = [table.precision() - precision, table.recall() - recall];
        ensure!(found.iter().all(|off| off.abs() < 1e-9), "{what}: {table}");
    }
    Ok(())
}
