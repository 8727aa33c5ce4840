//! Which callback suffers what: a pure function of the seed. Every round of the deck has every fault, in another order.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use countersign_boot::Failpoint;

/// How often SIGKILL at any moment is in a round; everything else is there once.
const KILLS: usize = 3;
/// How long a process lives from its start before it is killed or stopped, milliseconds: it may not be ready yet.
const ALIVE_MS: RangeInclusive<u64> = 200..=4_000;

/// What a callback suffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It kills itself at this point.
    Point(Failpoint),
    /// SIGKILL at any moment.
    Killed,
    /// SIGTERM, and a new process: a rolling restart.
    Restarted,
}

impl Fault {
    /// Whether it strikes only a process that an operator calls.
    pub fn needs_calls(self) -> bool {
        let by_calls = ["callback.after_act_", "callback.after_redrive_"];
        matches!(self, Self::Point(point) if by_calls.iter().any(|start| point.name().starts_with(start)))
    }

    /// How often the point is passed before it kills. What a process comes by all the time may strike late.
    fn passes(self) -> RangeInclusive<u64> {
        match self {
            Self::Point(point) if point.name().starts_with("callback.receipt_") => 0..=10,
            Self::Point(point) if point.name().starts_with("callback.check_") || point.name() == "callback.after_rearm" => 0..=5,
            _ => 0..=0,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Point(point) => point.name(),
            Self::Killed => "SIGKILL at any moment",
            Self::Restarted => "SIGTERM, rolling restart",
        })
    }
}

/// The points of callback.
pub fn points() -> Vec<Failpoint> {
    Failpoint::ALL.iter().filter(|point| point.name().starts_with("callback.")).copied().collect()
}

/// One fault with its moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Card {
    /// What.
    pub fault: Fault,
    /// How often the point is passed before.
    pub passes: u64,
    /// How long the process lives before; for a point its own hits decide.
    pub alive: Duration,
}

impl Card {
    /// What FAILPOINTS is set to when the process starts.
    pub fn failpoints(&self) -> String {
        match (self.fault, self.passes) {
            (Fault::Point(point), 0) => format!("{}=1*return", point.name()),
            (Fault::Point(point), passes) => format!("{}={passes}*off->1*return", point.name()),
            _ => String::new(),
        }
    }
}

/// Cards without end, in rounds that are shuffled one by one. What did not strike can be put back: it comes again in the next round.
pub struct Deck {
    random: fastrand::Rng,
    pile: Vec<Card>,
    put_back: Vec<Card>,
}

impl Deck {
    /// A deck of all faults.
    pub const fn new(random: fastrand::Rng) -> Self {
        Self { random, pile: Vec::new(), put_back: Vec::new() }
    }

    /// The next card.
    pub fn draw(&mut self) -> Card {
        loop {
            if let Some(card) = self.pile.pop() {
                return card;
            }
            let others = [Fault::Restarted].into_iter().chain([Fault::Killed; KILLS]);
            let round = points().into_iter().map(Fault::Point).chain(others);
            let random = &mut self.random;
            self.pile = round
                .map(|fault| Card {
                    fault,
                    passes: random.u64(fault.passes()),
                    alive: Duration::from_millis(random.u64(ALIVE_MS)),
                })
                .collect();
            self.pile.append(&mut self.put_back);
            self.random.shuffle(&mut self.pile);
        }
    }

    /// Takes a card back that did not strike.
    pub fn put_back(&mut self, card: Card) {
        self.put_back.push(card);
    }
}

#[test]
fn a_round_has_every_point_and_a_seed_gives_the_same_cards() {
    let drawn = |seed: u64| {
        let mut deck = Deck::new(fastrand::Rng::with_seed(seed));
        (0..=points().len() + KILLS).map(|_| deck.draw()).collect::<Vec<_>>()
    };
    for seed in 0..50 {
        let cards = drawn(seed);
        for point in points() {
            assert_eq!(cards.iter().filter(|card| card.fault == Fault::Point(point)).count(), 1, "seed {seed}: {}", point.name());
        }
        assert_eq!(cards, drawn(seed));
    }
    assert_ne!(drawn(7), drawn(8));
}
