//! A set of seqs, kept as runs: what is given out in order and leaves nearly in order takes little memory, however many there are.

use std::collections::BTreeMap;

use crate::id::Seq;

/// A set of seqs. Its memory grows with the number of gaps, not of seqs.
///
/// **Invariant:** runs neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seqs {
    /// First and last of each run.
    runs: BTreeMap<Seq, Seq>,
    count: usize,
}

impl Seqs {
    /// Adds one. False: it was there.
    pub fn insert(&mut self, seq: Seq) -> bool {
        let before = self.runs.range(..=seq).next_back().map(|(first, last)| (*first, *last));
        if before.is_some_and(|(_, last)| seq <= last) {
            return false;
        }
        let first = before.filter(|(_, last)| last.next() == seq).map_or(seq, |(first, _)| first);
        let last = self.runs.remove(&seq.next()).unwrap_or(seq);
        self.runs.insert(first, last);
        self.count += 1;
        true
    }

    /// Takes one out. False: it was not there.
    pub fn remove(&mut self, seq: Seq) -> bool {
        let Some((first, last)) = self.run_of(seq) else { return false };
        if first < seq {
            self.runs.insert(first, Seq(seq.0 - 1));
        } else {
            self.runs.remove(&first);
        }
        if seq < last {
            self.runs.insert(seq.next(), last);
        }
        self.count -= 1;
        true
    }

    /// Whether it is there.
    #[must_use]
    pub fn contains(&self, seq: Seq) -> bool {
        self.run_of(seq).is_some()
    }

    /// The smallest.
    #[must_use]
    pub fn first(&self) -> Option<Seq> {
        self.runs.first_key_value().map(|(first, _)| *first)
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn run_of(&self, seq: Seq) -> Option<(Seq, Seq)> {
        let (first, last) = self.runs.range(..=seq).next_back()?;
        (seq <= *last).then_some((*first, *last))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neighbours_are_one_run() {
        let mut seqs = Seqs::default();
        for seq in [1, 3, 2, 9] {
            assert!(seqs.insert(Seq(seq)) && !seqs.insert(Seq(seq)));
        }
        assert_eq!(seqs.runs, BTreeMap::from([(Seq(1), Seq(3)), (Seq(9), Seq(9))]));
        assert!(seqs.remove(Seq(2)) && !seqs.remove(Seq(2)));
        assert_eq!(seqs.runs.len(), 3);
    }

    proptest! {
        #[test]
        fn it_is_a_set(steps in prop::collection::vec((any::<bool>(), 1..40_u64), 0..200)) {
            let (mut seqs, mut model) = (Seqs::default(), BTreeSet::new());
            for (insert, seq) in steps {
                let seq = Seq(seq);
                if insert {
                    prop_assert_eq!(seqs.insert(seq), model.insert(seq));
                } else {
                    prop_assert_eq!(seqs.remove(seq), model.remove(&seq));
                }
                prop_assert_eq!(seqs.first(), model.first().copied());
                prop_assert_eq!((seqs.len(), seqs.is_empty()), (model.len(), model.is_empty()));
                for seq in (0..42).map(Seq) {
                    prop_assert_eq!(seqs.contains(seq), model.contains(&seq));
                }
                let runs: Vec<_> = seqs.runs.iter().collect();
                prop_assert!(runs.windows(2).all(|pair| pair[0].1.next() < *pair[1].0), "{:?}", runs);
            }
        }
    }
}
