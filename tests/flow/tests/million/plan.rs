//! Which message meets which fate, drawn by a seed.

use countersign_flow::{CHECK_DELAY_MS, order};
use countersign_wire::proto::NewMessage;

/// One in so many messages has each of the fates that are no good.
const ONE_IN: u32 = 100;
/// How long the handler takes for a slow one, milliseconds: a busy machine, too, could take it for lost before that is over.
pub(super) const SLOW_MS: u64 = 10 * CHECK_DELAY_MS;

/// What becomes of a message, and of its receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing happens to it.
    Good,
    /// It vanishes between the exchange and the work queue, after the broker has confirmed it.
    Lost,
    /// It is handled, and its receipt vanishes.
    Unsigned,
    /// It is handled long after its check is due.
    Slow,
}

impl Fate {
    fn draw(random: &mut fastrand::Rng) -> Self {
        match random.u32(0..ONE_IN) {
            0 => Self::Lost,
            1 => Self::Unsigned,
            2 => Self::Slow,
            _ => Self::Good,
        }
    }

    /// The routing key by which the broker parts it from the others; all of them match the binding of the topology.
    pub(super) const fn routing_key(self) -> &'static str {
        match self {
            Self::Good | Self::Slow => "order.created",
            Self::Lost => "order.created.lost",
            Self::Unsigned => "order.created.unsigned",
        }
    }

    /// The try that is to bring its one effect, and the last try that is to be made.
    pub(super) const fn tries(self) -> [u32; 2] {
        match self {
            Self::Good | Self::Slow => [1, 1],
            Self::Lost => [2, 2],
            Self::Unsigned => [1, 2],
        }
    }
}

/// The fate of every message, by its number.
#[derive(Debug)]
pub(super) struct Plan(Vec<Fate>);

impl Plan {
    pub(super) fn of(messages: u32, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        Self((0..messages).map(|_| Fate::draw(&mut random)).collect())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The fates of all messages, in the order of their numbers.
    pub(super) fn fates(&self) -> impl Iterator<Item = Fate> {
        self.0.iter().copied()
    }

    /// The order of this number, under an idempotency key of its own.
    pub(super) fn message(&self, number: u32) -> Option<NewMessage> {
        let fate = *self.0.get(usize::try_from(number).ok()?)?;
        let mut message = NewMessage { routing_key: fate.routing_key().into(), ..order(number) };
        if fate == Fate::Slow {
            message.body = format!("{{\"order\":{number},\"takes_ms\":{SLOW_MS}}}").into();
        }
        Some(message)
    }
}
