//! Which fault comes when: a pure function of the seed. Every round of a deck has every fault, in another order.

use std::collections::VecDeque;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use countersign_boot::Failpoint;

/// The failpoints of an upstream process, by the first word of their names. `transaction` is left out: only a service that embeds upstream
/// comes by it.
const UPSTREAM_WORDS: [&str; 4] = ["upstream", "store", "adopt", "resend"];
/// How often SIGKILL at any moment is in a round; everything else is there once.
const KILLS: usize = 2;
/// How long a process lives, ready, before it is killed or stopped, milliseconds.
const ALIVE_MS: RangeInclusive<u64> = 100..=3_000;

/// What an upstream process suffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// It kills itself at this point.
    Point(Failpoint),
    /// SIGKILL at any moment.
    Killed,
    /// SIGSTOP for longer than the lease, then SIGCONT: it was adopted meanwhile, and does not know it.
    Paused,
    /// SIGTERM, and a new process: a rolling restart.
    Restarted,
}

impl Fault {
    /// All of them, each once: the points first, in their own order.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let ours = |point: &&Failpoint| point.name().split('.').next().is_some_and(|word| UPSTREAM_WORDS.contains(&word));
        let points = Failpoint::ALL.iter().filter(ours).map(|point| Self::Point(*point));
        points.chain([Self::Killed, Self::Paused, Self::Restarted]).collect()
    }

    /// Whether it ends a process by SIGKILL.
    #[must_use]
    pub const fn is_kill(self) -> bool {
        matches!(self, Self::Point(_) | Self::Killed)
    }

    /// Whether it strikes only a process that callback calls.
    #[must_use]
    pub fn needs_calls(self) -> bool {
        matches!(self, Self::Point(point) if point.name().starts_with("resend."))
    }

    /// How often the point is passed before it kills. What a process comes by all the time may strike late; an adoption or a resend is
    /// rare enough.
    fn passes(self) -> RangeInclusive<u64> {
        match self {
            Self::Point(point) if point.name().starts_with("upstream.") || point.name().starts_with("store.") => 0..=20,
            Self::Point(point) if point.name().starts_with("resend.") => 0..=1,
            _ => 0..=0,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Point(point) => point.name(),
            Self::Killed => "SIGKILL at any moment",
            Self::Paused => "SIGSTOP beyond the lease",
            Self::Restarted => "SIGTERM, rolling restart",
        })
    }
}

/// One fault with its moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Card {
    /// What.
    pub fault: Fault,
    /// How often the point is passed before.
    pub passes: u64,
    /// How long the process lives before, once it is ready; for a point its own hits decide.
    pub alive: Duration,
}

impl Card {
    /// What FAILPOINTS is set to when the process starts.
    #[must_use]
    pub fn failpoints(&self) -> String {
        match (self.fault, self.passes) {
            (Fault::Point(point), 0) => format!("{}=1*return", point.name()),
            (Fault::Point(point), passes) => format!("{}={passes}*off->1*return", point.name()),
            _ => String::new(),
        }
    }
}

/// Cards without end, in rounds that are shuffled one by one. What did not strike can be put back: it comes again in the next round.
#[derive(Debug)]
pub struct Deck {
    random: fastrand::Rng,
    round: Vec<Fault>,
    pile: VecDeque<Card>,
    put_back: Vec<Card>,
}

impl Deck {
    /// A deck of all faults.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut round = Fault::all();
        round.extend([Fault::Killed; KILLS - 1]);
        Self { random: fastrand::Rng::with_seed(seed), round, pile: VecDeque::new(), put_back: Vec::new() }
    }

    /// The next card.
    pub fn draw(&mut self) -> Card {
        if self.pile.is_empty() {
            self.shuffle();
        }
        // A round has a card for each fault, and there are faults: the pile is not empty here.
        self.pile.pop_front().unwrap_or_else(|| Self::card(Fault::Killed, &mut self.random))
    }

    /// Takes a card back that did not strike.
    pub fn put_back(&mut self, card: Card) {
        self.put_back.push(card);
    }

    fn shuffle(&mut self) {
        let mut cards: Vec<_> = self.round.iter().map(|fault| Self::card(*fault, &mut self.random)).collect();
        cards.append(&mut self.put_back);
        self.random.shuffle(&mut cards);
        self.pile = cards.into();
    }

    fn card(fault: Fault, random: &mut fastrand::Rng) -> Card {
        Card { fault, passes: random.u64(fault.passes()), alive: Duration::from_millis(random.u64(ALIVE_MS)) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn drawn(seed: u64, cards: usize) -> Vec<Card> {
        let mut deck = Deck::new(seed);
        (0..cards).map(|_| deck.draw()).collect()
    }

    fn counts(cards: &[Card]) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for card in cards {
            *counts.entry(card.fault.to_string()).or_default() += 1;
        }
        counts
    }

    #[test]
    fn the_points_are_those_of_upstream_and_of_nobody_else() {
        let names: Vec<_> = Fault::all().iter().map(ToString::to_string).collect();
        for wanted in ["upstream.after_store", "upstream.before_watermark", "resend.after_lookup", "resend.after_publish"] {
            assert!(names.iter().any(|name| name == wanted), "{wanted} is missing in {names:?}");
        }
        assert!(!names.iter().any(|name| name.starts_with("downstream.") || name.starts_with("callback.")), "{names:?}");
    }

    #[test]
    fn the_same_seed_gives_the_same_cards_and_another_one_others() {
        assert_eq!(drawn(7, 200), drawn(7, 200));
        assert_ne!(drawn(7, 200), drawn(8, 200));
    }

    #[test]
    fn after_so_many_rounds_every_fault_was_drawn_at_least_as_often() {
        let round = Fault::all().len() + KILLS - 1;
        for seed in 0..200 {
            for rounds in [1, 3, 5] {
                let counts = counts(&drawn(seed, rounds * round));
                assert_eq!(counts.len(), Fault::all().len(), "{seed}");
                assert!(counts.values().all(|count| *count >= rounds), "seed {seed}, {rounds} rounds: {counts:?}");
            }
        }
    }

    #[test]
    fn rounds_differ_from_each_other() {
        let round = Fault::all().len() + KILLS - 1;
        let cards = drawn(3, 2 * round);
        let faults = |cards: &[Card]| cards.iter().map(|card| card.fault).collect::<Vec<_>>();
        assert_ne!(faults(&cards[..round]), faults(&cards[round..]));
    }

    #[test]
    fn what_did_not_strike_comes_again_in_the_next_round_beside_its_usual_card() {
        let round = Fault::all().len() + KILLS - 1;
        let mut deck = Deck::new(11);
        let missed = (0..round).map(|_| deck.draw()).last().unwrap();
        deck.put_back(missed);
        let next: Vec<_> = (0..=round).map(|_| deck.draw()).collect();
        let usual = if missed.fault == Fault::Killed { KILLS } else { 1 };
        assert_eq!(next.iter().filter(|card| card.fault == missed.fault).count(), usual + 1);
    }

    #[test]
    fn a_point_strikes_after_its_passes_and_other_faults_arm_nothing() {
        let point = |passes| Card { fault: Fault::Point(Failpoint::UpstreamAfterStore), passes, alive: Duration::ZERO };
        assert_eq!(point(0).failpoints(), "upstream.after_store=1*return");
        assert_eq!(point(3).failpoints(), "upstream.after_store=3*off->1*return");
        assert_eq!(Card { fault: Fault::Killed, passes: 0, alive: Duration::ZERO }.failpoints(), "");
    }
}
